"""Settings of a distillation: every flag of distill.py, its default and its help."""

from dataclasses import dataclass, field

from rdrec.errors import UserError


POLICIES = ("off", "sentence", "empty")


def _flag(help: str, **default):
    return field(metadata={"help": help}, **default)


@dataclass
class Settings:
    """Flags that change answers are written into the journal; a run goes on only under the same."""

    reviews: str = _flag("File or folder of reviews: CSV, TSV, JSON or Parquet, also packed.")
    endpoint: list[str] = _flag("URL of each server with an OpenAI-style chat endpoint, e.g. http://127.0.0.1:8080")
    output: str = _flag(
        "Folder for the journal and rationales.parquet; the same folder again goes on, asking new texts only."
    )

    columns: str | None = _flag(
        "Columns of the reviews, user=NAME,item=NAME,time=NAME,text=NAME (or numbers); default: guessed.", default=None
    )
    prompt: str = _flag("grounded, published, or a prompt file.", default="grounded")
    model: str | None = _flag("Name of the model, as the server knows it; default: what the server says.", default=None)
    guided: str = _flag(
        "Guided decoding: auto asks the server what it is; tgi, vllm, llamacpp or off choose.", default="auto"
    )
    temperature: float | None = _flag("Sampling temperature; default: the prompt's.", default=None)
    top_p: float | None = _flag("Nucleus of sampling; default: the prompt's.", default=None)
    max_tokens: int | None = _flag("Most tokens of an answer; default: the prompt's.", default=None)
    seed: int = _flag("Seed of sampling, where the server takes one; each text gets its own from it.", default=0)
    max_review_chars: int = _flag("Longer reviews are cut, to fit the server's context.", default=4000)
    max_reviews: int | None = _flag("Only the first so many reviews of the file, to try things out.", default=None)

    policy: str = _flag(
        "What becomes of a half that its review does not support: off keeps it; sentence and empty ask again and, "
        "where that does not help, put a sentence of the review there or nothing.",
        default="off",
    )
    asks: int = _flag("How often a review is asked again at most, under a policy.", default=1)
    judge: bool = _flag("Under a policy, also have the server judge every half that would be kept.", default=False)

    concurrency: int = _flag("Requests at once at each endpoint; fewer while they time out.", default=64)
    timeout: float = _flag("Seconds for one request.", default=120.0)
    patience: float = _flag("Seconds without any answer after which the run stops.", default=600.0)
    allow_failures: bool = _flag(
        "Leave reviews empty that fail again and again while others are answered; default: exit code 2 at the end.",
        default=False,
    )

    def __post_init__(self):
        if self.policy not in POLICIES:
            raise UserError(f"--policy {self.policy}: unknown; choose one of {', '.join(POLICIES)}")
        if self.judge and self.policy == "off":
            raise UserError("--judge: a verdict needs a policy to follow it; add --policy sentence or empty")
        if self.asks < 0:
            raise UserError(f"--asks {self.asks}: give 0 or more")
        for name in ("max_tokens", "max_review_chars", "max_reviews", "concurrency", "timeout", "patience"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"--{name} {value}: give more than 0")
