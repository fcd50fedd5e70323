"""Train RDRec: explanation, rationale, sequential and top-N recommendation in one model.

    accelerate launch train.py                                       # the embedded sample, recipes/sample.yaml
    accelerate launch train.py --config recipes/beauty.yaml          # any recipe; flags win over the file
    accelerate launch train.py --config recipes/beauty.yaml --resume_from_checkpoint last
    accelerate launch train.py --dataset rdrec/beauty-rationales --push_to_hub --hub_model_id me/rdrec-beauty
    accelerate launch train.py --dataset rdrec/beauty-rationales --model_name_or_path rdrec/rdrec-beauty --lora_rank 8

It leaves the best model in --output_dir, with `recipe.yaml` and `training_record.json` beside it.
"""

import os
import sys
from pathlib import Path


# The tokenizer's threads gain nothing on batches of this size, and warn once batches are made in worker processes.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# On a CPU oneDNN keeps code that it compiled for each shape of a product; a thousand of them are half a gigabyte.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")

from accelerate import PartialState  # noqa: E402

from rdrec.arguments import parse_arguments, run  # noqa: E402
from rdrec.places import HOME  # noqa: E402
from rdrec.publishing.hub import Hub  # noqa: E402
from rdrec.publishing.push import Push  # noqa: E402
from rdrec.publishing.settings import PushSettings  # noqa: E402
from rdrec.training.loop import train  # noqa: E402
from rdrec.training.recipe import Recipe  # noqa: E402


def main() -> int:
    argv = sys.argv[1:]
    names = {word.split("=")[0].replace("-", "_") for word in argv if word.startswith("-")}
    own = {"__config", "__dataset", "__model_name_or_path", "__model_config", "__help", "_h"}
    if "sample" in argv or "--dataset=sample" in argv:
        own -= {"__dataset"}
    if not names & own:
        argv = ["--config", str(HOME / "recipes" / "sample.yaml"), *argv]
    recipe = parse_arguments(Recipe, __doc__, argv)
    if recipe.push_to_hub:
        # Before hours of training, not after them.
        Hub().check_target(recipe.hub_model_id)
    record = train(recipe)
    if record is None:
        return 130
    if PartialState().is_main_process:
        print(
            f"{record.summary()}, {record.minutes:.1f} minutes, {record.tokens_per_second:,.0f} tokens/s, "
            f"{record.share_of_step_time_spent_on_data:.1%} of step time spent on data: {recipe.output_dir}"
        )
        if recipe.push_to_hub:
            push(recipe)
    return 0


def push(recipe: Recipe) -> None:
    """Push the run's best model to the Hub, as `push_to_hub.py --model` does."""
    from_hub = not Path(recipe.dataset).exists() and recipe.dataset != "sample"
    Push(
        PushSettings(
            namespace=recipe.hub_model_id.split("/")[0],
            model=recipe.output_dir,
            hub_model_id=recipe.hub_model_id,
            hub_dataset_id=recipe.dataset if from_hub else None,
            private=recipe.hub_private_repo,
            revision=recipe.hub_revision,
        )
    ).run()


if __name__ == "__main__":
    run(main)
