"""Names of the files in a checkpoint's folder, which are also those of its repo on the Hub; each is stated here once.

What only a training in progress has (`checkpoint-last`, …) is in `run_folder.py`, the dataset's files are in
`dataset_builder/tables.py`.
"""

from pathlib import Path


# As transformers and peft name them.
CONFIG_FILE, GENERATION_CONFIG_FILE, WEIGHTS_FILE = "config.json", "generation_config.json", "model.safetensors"
ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
# Large models are saved in several files with an index.
WEIGHTS_PATTERNS = (WEIGHTS_FILE, "model-*.safetensors", "model.safetensors.index.json", ADAPTER_WEIGHTS_FILE)
TOKENIZER_PATTERNS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "spiece.model", "catalog*")

# Ours; what is in the JSON files is in `records.py`.
RECIPE_FILE = "recipe.yaml"
RECORD_FILE = "training_record.json"
CONVERSION_FILE = "conversion_record.json"
RESULTS_FILES = {"test": "eval_results.json", "validation": "eval_results_validation.json"}  # by split


def weights_file(folder: Path) -> Path:
    """Where a checkpoint's own weights lie if they are one file: its adapters', if it is adapters over another."""
    return folder / (ADAPTER_WEIGHTS_FILE if (folder / ADAPTER_CONFIG_FILE).is_file() else WEIGHTS_FILE)
