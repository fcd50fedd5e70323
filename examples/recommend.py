"""Load a checkpoint as any user of the Hub would, and print one user's recommendations with their explanations.

python -I examples/recommend.py runs/sample data/sample          # -I: nothing of this repository is importable
python -I examples/recommend.py runs/sample data/sample USER_RAW_ID
"""

import sys

from datasets import load_dataset
from transformers import AutoModel, AutoTokenizer


def main(checkpoint: str, dataset: str, user: str | None = None) -> None:
    model = AutoModel.from_pretrained(checkpoint, trust_remote_code=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=True)

    catalog = load_dataset(dataset, "catalog", split="train")
    names = {row["raw_id"]: row["text"] or row["raw_id"] for row in catalog if row["kind"] == "item"}
    user = user or tokenizer.to_raw("user", 1)
    interactions = load_dataset(dataset, "interactions", split="train")
    bought = interactions[tokenizer.to_id("user", user) - 1]["items"]
    history = [tokenizer.to_raw("item", item) for item in bought]

    print(f"{user} bought: {', '.join(names[item] for item in history)}")
    recommended = model.recommend(tokenizer, user=user, history=history, k=5)
    explanations = model.explain(
        tokenizer, user=[user] * len(recommended.items), item=recommended.items, return_evidence=True
    )
    for item, score, explanation in zip(recommended.items, recommended.scores, explanations, strict=True):
        source = {"evidence": "a buyer", "beams": "the model"}.get(explanation.source, "nobody")
        print(f"  {item}  {names[item]}  (score {score:.2f}): {explanation.text} ({source})")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(f"usage: {sys.argv[0]} CHECKPOINT DATASET [USER_RAW_ID]")
    try:
        main(*sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
