"""What `load_dataset` gives someone with an empty cache, whose only package is `datasets`, of any major version.

    python -I tests/fakes/stranger_rows.py DATASET_ID REVISION

Prints, as JSON on the last line: rows of each `config/split`, the default config's splits, the version of `datasets`.
Each split is also streamed, at REVISION; its first row must be the same. For `test_load_dataset.py`.
"""

import json
import sys

import datasets


def main(dataset_id: str, revision: str) -> dict:
    rows = {}
    configs = datasets.get_dataset_config_names(dataset_id)
    for config in configs:
        for split, table in datasets.load_dataset(dataset_id, config).items():
            streamed = datasets.load_dataset(dataset_id, config, split=split, streaming=True, revision=revision)
            assert next(iter(streamed)) == table[0], (config, split)
            rows[f"{config}/{split}"] = table.num_rows
    return {"rows": rows, "default": datasets.load_dataset(dataset_id).num_rows, "version": datasets.__version__}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
