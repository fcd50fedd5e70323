"""What someone with an empty cache and without this repository does.

    python -I tests/fakes/stranger.py MODEL_ID DATASET_ID METRIC_ID MODEL_REVISION

Prints answers and rows as JSON on the last line, for `test_hub_release.py`.
"""

import json
import sys

import datasets
import evaluate
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer, pipeline


def main(model_id: str, dataset_id: str, metric_id: str, revision: str) -> dict:
    pinned = {"revision": revision, "code_revision": revision}
    model = AutoModel.from_pretrained(model_id, trust_remote_code=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_id, trust_remote_code=True)
    made = answers(model, tokenizer)
    again = AutoModelForSeq2SeqLM.from_pretrained(model_id, trust_remote_code=True, **pinned).eval()
    made["pinned"] = answers(again, AutoTokenizer.from_pretrained(model_id, trust_remote_code=True, **pinned))
    made["model_type"] = AutoConfig.from_pretrained(model_id, trust_remote_code=True, **pinned).model_type
    recommender = pipeline("rdrec-recommendation", model=model_id, trust_remote_code=True, revision=revision)
    user, item = (lambda n: tokenizer.to_raw("user", n)), (lambda n: tokenizer.to_raw("item", n))
    queries = [
        {"user": user(1), "history": [item(1), item(2)]},
        {"user": user(2), "candidates": [item(3), item(4), item(5)]},
        {"user": user(3), "history": [item(9)]},
    ]
    made["pipeline"] = recommender(queries, batch_size=2, top_k=3, explain=True)
    made["rows"] = datasets.load_dataset(dataset_id).num_rows
    metric = evaluate.load(metric_id, revision="v1.0")
    made["metric"] = metric.compute(predictions=[[3, 1, 2]], references=[1], k=[5])
    return made


def answers(model, tokenizer) -> dict:
    """The same as `before` in the test, in full precision."""
    batch = tokenizer(["user_1 item_2 item_3"], return_tensors="pt")
    with torch.inference_mode():
        logits = model(**batch, task_ids=torch.tensor([1]), labels=torch.tensor([[1]])).logits
    users, items = tokenizer.catalog["user"], tokenizer.catalog["item"]
    recommended = model.recommend(tokenizer, user=users[:2], history=[items[:2], items[2:3]], k=3)
    ranked = model.rank(tokenizer, user=users[1:2], candidates=[items[2:5]])
    return {
        "recommend": [[row.items, row.scores] for row in recommended],
        "rank": [[row.items, row.scores] for row in ranked],
        "explain": model.explain(tokenizer, user=users[0], item=items[1]),
        "logits": logits.flatten().tolist(),
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
