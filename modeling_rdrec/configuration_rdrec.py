"""RDRecConfig: a T5 configuration with soft prompts per task and a table of whole-word embeddings.

config = RDRecConfig(d_model=128, num_layers=2)          # or RDRecConfig.from_pretrained("google-t5/t5-small")
"""

from huggingface_hub.dataclasses import strict
from transformers import T5Config


# The index of a task in this tuple is its task id, the row block of its soft prompt (paper, section 3).
TASKS = ("explanation", "sequential", "topn", "user_preference", "item_attributes")

HISTORIES = ("decoder", "encoder")
# What a checkpoint was fitted on, and how many items at the end of each user's sequence it has not seen.
FITTED_ON = {"train": 2, "train+validation": 1, "all": 0}

AUTO_MAP = {
    "AutoConfig": "configuration_rdrec.RDRecConfig",
    "AutoModel": "modeling_rdrec.RDRecForConditionalGeneration",
    "AutoModelForSeq2SeqLM": "modeling_rdrec.RDRecForConditionalGeneration",
    "AutoTokenizer": ["tokenization_rdrec.RDRecTokenizer", None],
}


@strict
class RDRecConfig(T5Config):
    """Configuration of [`RDRecForConditionalGeneration`]; every argument of `T5Config` is accepted too.

    Parameters
    ----------
    num_tasks : int
        Number of tasks, each with a soft prompt of its own (`TASKS` in order of task id).
    prompt_length : int
        Soft-prompt vectors put before the text of a prompt that names its task; 0: none, and the wording alone tells
        the task, as in P5.
    max_whole_words : int
        Rows of the whole-word table. Row 0 is for tokens outside whole words, so one input may hold at most
        `max_whole_words - 1` users and items.
    marks_whole_words : bool
        Mark which pieces make up one user or item; otherwise there is no table of whole words.
    history : str
        Where a user's items are read. "decoder": they are the decoder's prefix, and the next item is what follows.
        "encoder": they stand in the prompt, as in the paper; so in every checkpoint that does not say.
    max_history : int
        Items of a history that are read at most, the most recent ones (paper: 20).
    ids_are_pieces : bool
        With `history="decoder"`: every item id is one piece of the vocabulary. Otherwise ids have several, and in the
        decoder each id is followed by `</s>` (or "12" could not be told from the beginning of "123") and its pieces are
        marked by whole-word embeddings.
    reads_users : bool
        With `history="decoder"`: recommendation prompts name the user. Without, users are known by their history alone.
    prior_weight, prior_offset : float
        Weight w and offset o of the counted transitions that are added to an item's log-probability: w * log(count + o)
        (see `transitions.py`). A weight of 0 leaves them out.
    reads_evidence : bool
        Prompts for texts hold what reviews say of the item and the user, from the table that travels with the
        tokenizer (`evidence.py`).
    evidence_weight : float
        What an explanation's support and match count beside its mean log-probability when one of several is chosen
        (`explaining.py`); 0: the most likely is taken, as in the paper.
    fit_on : str
        What the weights have seen: "train" (all but the last two items of a user), "train+validation" (all but the last
        one) or "all".
    reference_padding : bool
        Treat padding as the paper's code does: it counts in the loss, and the decoder attends to the encoder's
        padding, so that a row's result depends on the batch it is in. For `published` runs and converted checkpoints.
    """

    model_type = "rdrec"

    num_tasks: int = 5
    prompt_length: int = 3
    max_whole_words: int = 512
    marks_whole_words: bool = True
    history: str = "encoder"
    max_history: int = 20
    ids_are_pieces: bool = False
    reads_users: bool = True
    prior_weight: float = 0.0
    prior_offset: float = 1.0
    reads_evidence: bool = False
    evidence_weight: float = 0.0
    fit_on: str = "train"
    reference_padding: bool = False
    decoder_start_token_id: int | None = 0

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        # A checkpoint loaded from the Hub names the repo its code came from; a new one uses the code beside it.
        if not getattr(self, "auto_map", None):
            self.auto_map = dict(AUTO_MAP)

    def validate_prompts(self):
        """Part of the `@strict` validation: tables without rows are refused when the configuration is made."""
        for name, least in (("num_tasks", 1), ("prompt_length", 0), ("max_whole_words", 2), ("max_history", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"RDRecConfig: {name}={getattr(self, name)} is too small, give at least {least}")
        if self.history not in HISTORIES:
            raise ValueError(f"RDRecConfig: history={self.history!r}: take one of {', '.join(HISTORIES)}")
        if self.fit_on not in FITTED_ON:
            raise ValueError(f"RDRecConfig: fit_on={self.fit_on!r}: take one of {', '.join(FITTED_ON)}")


RDRecConfig.register_for_auto_class()

__all__ = ["FITTED_ON", "HISTORIES", "RDRecConfig", "TASKS"]
