"""Convert a checkpoint of the paper's code (a module saved whole with torch.save) into one of ours.

    python convert_original_checkpoint.py --checkpoint model.pt --output_dir runs/original
    python convert_original_checkpoint.py --checkpoint model.pt --output_dir runs/original \\
      --dataset data/beauty-published

Nothing in the file is run: it is read with an unpickler that knows tensors and plain containers and refuses the rest.
With the dataset it was trained on (`python -m dataset_builder import --protocol published`) it knows raw ids, and
eval.py measures it.
"""

from dataclasses import dataclass, field
from pathlib import Path

from rdrec.arguments import parse_arguments, run
from rdrec.conversion.convert import convert


@dataclass
class Arguments:
    checkpoint: str = field(metadata={"help": "File that the paper's code saved."})
    output_dir: str = field(metadata={"help": "New folder for the checkpoint."})
    tokenizer: str = field(default="google-t5/t5-small", metadata={"help": "Its T5 tokenizer: folder or Hub id."})
    dataset: str | None = field(default=None, metadata={"help": "Built dataset, whose catalog it shall know."})
    prompt_length: int = field(default=3, metadata={"help": "Soft-prompt vectors a task, if the file does not say."})


def main() -> int:
    given = parse_arguments(Arguments, __doc__)
    record = convert(
        Path(given.checkpoint), Path(given.output_dir), given.tokenizer, given.prompt_length, given.dataset
    )
    print(
        f"{record.class_} with {record.num_tasks} tasks of {record.prompt_length} soft-prompt vectors: "
        f"{given.output_dir}"
    )
    return 0


if __name__ == "__main__":
    run(main)
