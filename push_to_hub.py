"""Push a checkpoint and its dataset to the Hugging Face Hub, with cards, and check what arrived.

    python push_to_hub.py --model runs/beauty --dataset data/beauty --namespace rdrec --dry-run
    python push_to_hub.py --model runs/beauty --dataset data/beauty --namespace rdrec --private --tag v1.0
    python push_to_hub.py --model runs/beauty --dataset data/beauty --namespace rdrec --space
    python push_to_hub.py --metrics ranking explanation --namespace rdrec

The dataset goes to NAMESPACE/DOMAIN-rationales, the model to NAMESPACE/rdrec-DOMAIN, the Space that shows it to its
name; those of the `published` protocol end in `-published`. Each repo changes in one commit or, where nothing changed,
in none; a push that was cut goes on when the same command is given again. The token is that of `hf auth login`, or
HF_TOKEN.
"""

from rdrec.arguments import parse_arguments, run
from rdrec.publishing.push import Push
from rdrec.publishing.settings import PushSettings


def main() -> int:
    Push(parse_arguments(PushSettings, __doc__)).run()
    return 0


if __name__ == "__main__":
    run(main)
