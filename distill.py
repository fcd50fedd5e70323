"""Distil rationales: ask a large language model about every review, on your own server.

    python distill.py --reviews reviews.json.gz --endpoint http://127.0.0.1:8080 --output runs/distilled
    python distill.py --reviews reviews.json.gz --endpoint URL URL --output runs/distilled --prompt published
    python -m dataset_builder build --reviews reviews.json.gz --rationales runs/distilled/rationales.parquet ...

Any server with an OpenAI-style chat endpoint: Text Generation Inference, vLLM, llama.cpp. Every answer is on disk
before it counts: stopped at any moment, the same command goes on and asks nothing twice. A token is read from HF_TOKEN.
"""

import shlex
import sys

from rdrec.arguments import parse_arguments, run
from rdrec.distillation.run import OUTPUT_FILE, Stopped, distill
from rdrec.distillation.settings import Settings
from rdrec.errors import UserError


def main() -> int:
    if sum(word.split("=")[0] == "--endpoint" for word in sys.argv) > 1:
        raise UserError("--endpoint is there twice; write all URLs after one: --endpoint URL URL")
    settings = parse_arguments(Settings, __doc__)
    try:
        info = distill(settings)
    except Stopped as stop:
        raise Stopped(f"{stop}: {shlex.join(['python', *sys.argv])}") from stop
    counts = info["counts"]
    print(f"{counts['reviews']:,} reviews, {counts['texts']:,} texts, {counts['with_rationale']:,} with a rationale")
    for name, count in info["flags"].items():
        print(f"  {name.replace('_', ' ')}: {count:,}")
    print(f"written to {settings.output}/{OUTPUT_FILE}")
    return 0


if __name__ == "__main__":
    run(main)
