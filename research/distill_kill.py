"""Kill -9 at random moments: what is answered stays answered, and the output is that of an uninterrupted run.

    python -m research.distill_kill --texts 2000 --kills 20

`tests/fakes/killing.py` says how it is done; `tests/distillation/test_distill.py` does the same with fewer.
"""

import argparse
import tempfile
from pathlib import Path

from tests.fakes.killing import kill_and_go_on


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--delay", type=float, default=0.1, help="seconds that the server takes")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        for name, value in kill_and_go_on(Path(place), **vars(given)).items():
            print(f"{name}: {value:,}")
    print("no text asked again after its answer was journaled; output equal, byte by byte")
