"""What a stranger sees of a pushed repo. Run by `verify.py` in a process of its own, with an empty cache and nothing
of this repository importable: `python -I probe.py '{"repo_id": …}'`. The last line it prints is a JSON object.
"""

import hashlib
import json
import sys
from pathlib import Path

from huggingface_hub import snapshot_download


def load(name: str, base: list | None, revision: str | None) -> tuple:
    """Model and tokenizer by name; adapters over their base, given as name and revision."""
    from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer

    pinned = {} if revision is None else {"revision": revision, "code_revision": revision}
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=True, **pinned)
    if base is not None:
        from peft import PeftModel

        under = AutoModel.from_pretrained(base[0], trust_remote_code=True, revision=base[1] or "main")
        return PeftModel.from_pretrained(under, name, revision=revision).merge_and_unload().eval(), tokenizer
    model = AutoModel.from_pretrained(name, trust_remote_code=True, **pinned).eval()
    same = AutoModelForSeq2SeqLM.from_pretrained(name, trust_remote_code=True, **pinned)
    assert type(same).__name__ == type(model).__name__
    return model, tokenizer


def answers(model, tokenizer) -> dict:
    """Answers of a checkpoint to a few queries, in full precision, and a hash of its logits."""
    import torch

    users = list(range(1, min(3, tokenizer.num_ids("user") or 3) + 1))
    items = list(range(1, min(12, tokenizer.num_ids("item") or 12) + 1))
    histories = [items[n : n + 3] for n in range(len(users))]
    batch = tokenizer(["user_1 item_1"], return_tensors="pt")
    with torch.inference_mode():
        logits = model(**batch, task_ids=torch.tensor([1]), labels=torch.tensor([[1]])).logits
        return {
            "recommend": [
                [row.items, row.scores]
                for row in model.recommend(tokenizer, history=histories, user=users, k=5, internal_ids=True)
            ],
            "rank": [
                [row.items, row.scores]
                for row in model.rank(
                    tokenizer, [items] * len(users), history=histories, user=users, k=5, internal_ids=True
                )
            ],
            "explain": model.explain(tokenizer, user=users, item=items[: len(users)], internal_ids=True),
            "logits": hashlib.sha256(logits.numpy().tobytes()).hexdigest(),
        }


def rows_of_dataset(name: str, revision: str, configs: dict[str, list[str]], local: str) -> dict:
    """Rows that `load_dataset` gives for each config and split, and whether they are those of the local files."""
    import pyarrow.parquet as pq
    from datasets import load_dataset

    found = {}
    for config, splits in configs.items():
        for split in splits:
            loaded = load_dataset(name, config, split=split, revision=revision)
            table = pq.read_table(Path(local) / config / f"{split}.parquet", partitioning=None)
            equal = loaded.with_format("arrow")[:].cast(table.schema).equals(table)
            found[f"{config}/{split}"] = {"rows": loaded.num_rows, "equal": equal}
    return found


def recommended(folder: str) -> list:
    """What a Space recommends to the first user of its dataset and says of the first item, from its own files."""
    sys.path.insert(0, folder)  # where `app.py` finds it too
    from answers import Recommender

    recommender = Recommender.load(folder)
    user = recommender.users[0]
    items = recommender.recommend(user=user, k=3)["items"]
    recommender.explain([item["id"] for item in items[:1]], user=user)
    return items


def main(asked: dict) -> dict:
    folder = snapshot_download(asked["repo_id"], repo_type=asked["kind"], revision=asked["revision"])
    made = {
        "sha256": {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(Path(folder).rglob("*"))
            if path.is_file()
        }
    }
    if asked["kind"] == "model":
        made["before"] = answers(*load(asked["local"], asked["base"], None))
        made["after"] = answers(*load(asked["repo_id"], asked["base"], asked["revision"]))
    elif asked["kind"] == "dataset":
        made["tables"] = rows_of_dataset(asked["repo_id"], asked["revision"], asked["configs"], asked["local"])
    elif (Path(folder) / "answers.py").is_file():
        made["recommended"] = recommended(folder)
    return made


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
