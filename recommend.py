"""Recommend items to all users of a dataset after their whole histories, into one Parquet file.

    accelerate launch recommend.py --model runs/mine --dataset data/mine --output tonight.parquet
    accelerate launch recommend.py --model runs/mine --dataset data/mine --output tonight.parquet \\
      --users vip.txt --exclude out_of_stock.txt --k 20 --explain

A row a user: `user`, `items` (best first), `scores`, and with --explain `explanations`. A run that was stopped or
killed goes on when the same command is given again; the file is there when all of it is.
"""

import os
import signal


os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from rdrec.arguments import parse_arguments, run  # noqa: E402
from rdrec.recommending.runner import Recommending  # noqa: E402
from rdrec.recommending.settings import RecommendingSettings  # noqa: E402


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop is that of Ctrl-C
    summary = Recommending(parse_arguments(RecommendingSettings, __doc__)).run()
    if summary is not None:
        print(summary)
    return 0


if __name__ == "__main__":
    run(main)
