"""What a run of recommendations is asked for: the flags of `recommend.py`."""

from dataclasses import dataclass, field

from rdrec.errors import UserError


@dataclass
class RecommendingSettings:
    model: str = field(metadata={"help": "Checkpoint: folder or Hub model id."})
    dataset: str = field(metadata={"help": "The dataset it was trained on: folder, Hub dataset id, or 'sample'."})
    output: str = field(metadata={"help": "Parquet file to write; what is done so far lies in OUTPUT.parts/."})
    users: str | None = field(
        default=None,
        metadata={"help": "Only these users: raw ids, one a line, or a CSV or Parquet file with a column `user`."},
    )
    k: int = field(default=10, metadata={"help": "Items a user."})
    exclude: str | None = field(
        default=None,
        metadata={"help": "Items that nobody gets, such as those out of stock: raw ids, as --users; column `item`."},
    )
    explain: bool = field(default=False, metadata={"help": "Write a sentence for each item, too."})
    exact: bool = field(
        default=False,
        metadata={"help": "The proven best instead of 20 beams, where ids have several pieces; else always so."},
    )
    batch_size: int = field(default=256, metadata={"help": "Users answered at once."})
    users_a_part: int = field(
        default=4096, metadata={"help": "Users after which what is done is safe; a row group of the file."}
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Replace OUTPUT, and what a run with other settings left unfinished there."}
    )
    mixed_precision: str | None = field(default=None, metadata={"help": "no or bf16."})
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub model."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub dataset."})

    def __post_init__(self):
        for name in ("k", "batch_size", "users_a_part"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: give 1 or more")
        if self.mixed_precision not in (None, "no", "fp16", "bf16"):
            raise UserError(f"--mixed_precision {self.mixed_precision}: take no, fp16 or bf16")
