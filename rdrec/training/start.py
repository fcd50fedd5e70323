"""What a run starts from: a model with its tokenizer, pretrained or new, and its parameters' learning rates."""

import json
from collections import Counter
from itertools import chain

import numpy as np
import torch
from accelerate import PartialState
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig

from dataset_builder.rationales import RATIONALE_TASKS
from modeling_rdrec import RDRecConfig, RDRecForConditionalGeneration, RDRecTokenizer
from modeling_rdrec.configuration_rdrec import FITTED_ON
from modeling_rdrec.item_text import ItemText
from rdrec.checkpoints.loading import check_same_catalog, kind_of, load_pretrained
from rdrec.errors import UserError
from rdrec.tasks.data import TaskData
from rdrec.tasks.vocabulary import train_tokenizer
from rdrec.tasks.wordings import WORDINGS

from .recipe import Recipe


NEW_EMBEDDING_STD, NEW_WHOLE_WORD_STD = 0.2, 0.1
# What an item's own part counts at the start, beside the part that its text gives.
OWN_SCALE = 0.5
# Embeddings of unit variance have farther to go than the other weights: so many times the common rate.
EMBEDDING_RATE = 8.0
# At the common rate an encoder that reads texts comes to add one long constant vector at every place: it drowns them.
ENCODER_RATE = 0.1
ENCODER_HISTORY, DECODER_HISTORY = 20, 50


def make_model(recipe: Recipe, data: TaskData) -> tuple[RDRecForConditionalGeneration, RDRecTokenizer]:
    """The model and tokenizer that training starts from, with the dataset's catalog attached to the tokenizer.

    Raises
    ------
    UserError
        For a checkpoint of another size, kind or catalog (but for one that the dataset extends), or an unknown key of
        `model_config`.
    """
    kind = None  # of the checkpoint to start from
    if recipe.model_name_or_path is None:
        model, tokenizer = _new_model(recipe, data)
    else:
        kind = kind_of(recipe.model_name_or_path, recipe.model_revision)
        model, tokenizer = load_pretrained(recipe.model_name_or_path, recipe.model_revision, recipe.max_whole_words)
        # Its weights belong to the ids of its own catalog.
        tokenizer = _over_catalog(model, tokenizer, recipe, data)
    if tokenizer.catalog is None:
        tokenizer.set_catalog(**data.raw_ids)
    config = model.config
    _check_goes_with(config, recipe, data, kind)
    config.reference_padding, config.prior_weight = recipe.reference_padding, 0.0
    # What a checkpoint has seen once, it has seen.
    config.fit_on = min(config.fit_on, recipe.fit_on, key=FITTED_ON.__getitem__)
    tokenizer.transitions = None
    _set_history(config, tokenizer, recipe, keeps=kind not in (None, "t5"))
    _set_evidence(config, tokenizer, recipe, data)
    model.set_attn_implementation(recipe.attn_implementation)
    if recipe.lora_rank is not None:
        _add_adapters(model, recipe)
    elif config.ids_are_pieces:
        _compose_items(model, tokenizer, recipe, data)
    return model, tokenizer


def _over_catalog(model, tokenizer: RDRecTokenizer, recipe: Recipe, data: TaskData) -> RDRecTokenizer:
    """The checkpoint's tokenizer with the dataset's catalog; `model` gets rows for what a refreshed dataset adds.

    Raises
    ------
    UserError
        The dataset's catalog is neither the checkpoint's nor an extension of it.
    """
    known, where = tokenizer.catalog, recipe.model_name_or_path
    # Raw ids alone do not tell: where they are numbers in order, a larger shop's begin like a smaller one's.
    extends = known is not None and known != data.raw_ids and "extends" in data.info
    if not extends or any(data.raw_ids[kind][: len(ids)] != ids for kind, ids in known.items()):
        check_same_catalog(tokenizer, data, where, recipe.dataset)
        return tokenizer
    users, items = (data.raw_ids[kind][len(known[kind]) :] for kind in ("user", "item"))
    note = f"{recipe.dataset} extends the catalog of {where} by {len(users)} users and {len(items)} items"
    if tokenizer.catalog_trie().longest > 2:  # ids of several pieces, all of which the vocabulary has
        tokenizer.set_catalog(**data.raw_ids)
        PartialState().print(note)
        return tokenizer
    if recipe.lora_rank is not None:
        raise UserError(f"lora_rank: {note}, and adapters have no rows for them: train all weights first")
    try:
        grown = tokenizer.with_items(items, users)
    except ValueError as error:
        raise UserError(f"{where}: {note}, but {error}") from error
    pieces: list[list[int]] = [[]] * len(items)
    if tokenizer.item_pieces is not None:
        pieces = grown.text_pieces(data.item_texts(recipe.item_text, recipe.fit_on)[len(known["item"]) :])
    model.add_rows(tokenizer, grown, pieces)
    if bare := sum(not row for row in pieces):
        note += f"; items without a text that the model knows, which start as the mean of the known items: {bare}"
    PartialState().print(note)
    return grown


def _check_goes_with(config: RDRecConfig, recipe: Recipe, data: TaskData, kind: str | None) -> None:
    """Refuse what would train to the end and then be of no use, or be asked in another way than it was trained."""
    if data.protocol == "published" and recipe.history != "encoder" and kind in (None, "t5"):
        raise UserError(
            f"{recipe.dataset}: built under the published protocol, which is the paper's: give history encoder"
        )
    if recipe.lora_rank is None:
        return
    if kind != "rdrec":
        what = "a plain T5" if kind == "t5" else "adapters itself"
        raise UserError(
            f"lora_rank: {recipe.model_name_or_path} is {what}, which adapters cannot be loaded over: give an "
            "RDRec checkpoint as model_name_or_path"
        )
    # Adapters are saved without a configuration: those who load them get the base's.
    for name, default in (("history", config.history), ("max_history", config.max_history), ("fit_on", config.fit_on)):
        if getattr(recipe, name) not in (None, default):
            raise UserError(
                f"lora_rank: adapters keep their base's {name}, {default}: leave it out or train all weights"
            )


def _set_history(config: RDRecConfig, tokenizer: RDRecTokenizer, recipe: Recipe, keeps: bool) -> None:
    """Where histories are read: as the recipe says, or, with `keeps`, as the checkpoint it starts from does."""
    if recipe.history is not None:
        config.history = recipe.history
    elif not keeps:
        config.history = "decoder"
    in_decoder = config.history == "decoder"
    if recipe.max_history is not None:
        config.max_history = recipe.max_history
    elif not keeps:
        config.max_history = DECODER_HISTORY if in_decoder else ENCODER_HISTORY
    if in_decoder and recipe.reference_padding:
        raise UserError("reference_padding is the paper's way: it goes with history encoder")
    # The answer is a whole word too.
    if in_decoder and config.max_history > config.max_whole_words - 2:
        raise UserError(f"max_history {config.max_history}: the whole-word table has {config.max_whole_words} rows")
    config.ids_are_pieces = in_decoder and tokenizer.catalog_trie().longest == 2
    if recipe.lora_rank is None:
        config.reads_users = not in_decoder or recipe.user_dropout < 1
    if recipe.prior_weight and not config.ids_are_pieces:
        raise UserError("prior_weight: counted transitions go with history decoder and ids_as_tokens: leave it out")


def _set_evidence(config: RDRecConfig, tokenizer: RDRecTokenizer, recipe: Recipe, data: TaskData) -> None:
    """What explanations rest on: the reviews that the model is fitted on, where it learns to write."""
    reads = config.history == "decoder" and "none" not in recipe.evidence and bool(len(data.texts_for(recipe.fit_on)))
    if recipe.lora_rank is not None:  # adapters keep their base's configuration
        reads = config.reads_evidence
    config.reads_evidence, config.evidence_weight = reads, 0.0
    tokenizer.evidence = data.evidence(recipe.evidence, recipe.fit_on) if reads else None


def _compose_items(model, tokenizer: RDRecTokenizer, recipe: Recipe, data: TaskData) -> None:
    """Have items' vectors made of their texts too, while training."""
    is_new = recipe.model_name_or_path is None
    if "none" in recipe.item_text or not (is_new or tokenizer.item_pieces is not None):
        return
    pieces = tokenizer.text_pieces(data.item_texts(recipe.item_text, recipe.fit_on))
    if is_new:
        # A piece that few items have would be one more vector of their own.
        counts = Counter(piece for row in pieces for piece in row)
        known = sorted(piece for piece, count in counts.items() if count >= recipe.item_text_min_count)
        if not known:
            return
        tokenizer.item_pieces = np.array(known)
        pieces = [[piece for piece in row if counts[piece] >= recipe.item_text_min_count] for row in pieces]
    tokens = tokenizer.catalog_trie().spell(np.arange(1, data.num_items + 1))[0]
    text = ItemText(tokens, pieces, recipe.own_dropout)
    if is_new:
        with torch.no_grad():
            model.shared.weight[text.rows[text.has_text]] *= OWN_SCALE
        text.fold(model.shared.weight)
    model.compose_items(text)


def _add_adapters(model: RDRecForConditionalGeneration, recipe: Recipe) -> None:
    """Freeze the weights but for soft prompts and whole words, and put adapters beside the attention's queries and
    values (LoRA, Hu et al., 2021); `save_pretrained` then writes the adapters alone."""
    model.add_adapter(
        LoraConfig(
            r=recipe.lora_rank,
            lora_alpha=2 * recipe.lora_rank,
            target_modules=["q", "v"],
            modules_to_save=["prompt_embeddings", "whole_word_embeddings"],
            revision=recipe.model_revision,
        )
    )


def _new_model(recipe: Recipe, data: TaskData) -> tuple[RDRecForConditionalGeneration, RDRecTokenizer]:
    try:
        settings = json.loads(recipe.model_config)
        assert isinstance(settings, dict)
    except (json.JSONDecodeError, AssertionError):
        raise UserError(f"model_config {recipe.model_config!r}: give a mapping such as {{d_model: 128}}") from None
    known = set(RDRecConfig.__dataclass_fields__)
    for key in settings:
        if key in Recipe.__dataclass_fields__:
            raise UserError(f"model_config: {key} belongs outside it, as a setting of the recipe")
        if key not in known:
            raise UserError(f"model_config: unknown key {key!r}: the keys are those of RDRecConfig")
    in_decoder = recipe.history != "encoder"
    catalog = {}
    if recipe.ids_as_tokens:
        # A piece that no prompt holds would never be trained.
        read = not in_decoder or recipe.user_dropout < 1 or len(data.texts_for(recipe.fit_on))
        catalog = {"num_users": len(data.raw_ids["user"]) if read else 0, "num_items": data.num_items}
    texts = chain(training_texts(data, recipe.fit_on), data.item_texts(recipe.item_text, recipe.fit_on))
    tokenizer = train_tokenizer(texts, recipe.vocab_size, recipe.max_whole_words, **catalog)
    defaults = {"vocab_size": len(tokenizer), "max_whole_words": recipe.max_whole_words}
    try:
        # Histories are read and answered with the same vectors, as in T5. In the paper's way a small new model learns
        # faster by T5 1.1's convention: a head of its own, and states that are not scaled down before it.
        config = RDRecConfig(**{**defaults, "tie_word_embeddings": in_decoder, **settings})
    except StrictDataclassError as error:
        raise UserError(f"model_config: {error.__cause__ or error}") from error
    model = RDRecForConditionalGeneration(config)
    if not in_decoder:
        # T5's unit variance is made for Adafactor's relative steps: under AdamW a new model stays for thousands of
        # steps where all items are equally likely. (With the history in the decoder embeddings have a larger rate.)
        torch.nn.init.normal_(model.shared.weight, std=NEW_EMBEDDING_STD)
    if config.marks_whole_words:
        torch.nn.init.normal_(model.whole_word_embeddings.weight, std=NEW_WHOLE_WORD_STD)
    return model, tokenizer


def parameter_groups(model: RDRecForConditionalGeneration, recipe: Recipe) -> list[dict]:
    """Parameters for the optimizer: one group, or two or three for a new model and one that was new once.

    T5 divides no attention score by sqrt(d_kv); its initial query weights are that much smaller instead. AdamW's steps
    know nothing of it, so the queries of a new model, moved at the common rate, saturate the attention at once.
    """
    # Only models that started here have pieces for ids: they go on at the rates that they began with.
    if recipe.model_name_or_path is not None and not model.config.ids_are_pieces:
        return [{"params": list(model.parameters()), "lr": recipe.learning_rate}]
    named = list(model.named_parameters())
    queries = [parameter for name, parameter in named if name.endswith(".q.weight")]
    tables = [model.shared.weight] if model.config.history == "decoder" else []
    encoder = []
    if model.config.reads_evidence:
        encoder = [one for name, one in named if name.startswith("encoder.block") and not name.endswith(".q.weight")]
    apart = {id(parameter) for parameter in (*queries, *tables, *encoder)}
    rate = recipe.learning_rate
    groups = [
        {"params": [parameter for _, parameter in named if id(parameter) not in apart], "lr": rate},
        {"params": queries, "lr": rate * model.config.d_kv**-0.5},
    ]
    rates = ((tables, EMBEDDING_RATE), (encoder, ENCODER_RATE))
    return groups + [{"params": some, "lr": rate * factor} for some, factor in rates if some]


def training_texts(data: TaskData, fit_on: str = "train"):
    """The texts that a vocabulary is trained on: training rows only, and the wordings of prompts."""
    for wordings in WORDINGS.values():
        for wording in wordings:
            yield wording.format(user="", item="", items="")
    texts = data.texts_for(fit_on)
    for name in ("explanation", *RATIONALE_TASKS):
        yield from (text for text in getattr(texts, name) if text)
    if not len(texts):
        yield "user item"
