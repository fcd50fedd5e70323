"""Cut pushes at random points, repeat each, and see that the repo is whole and its history clean.

    python -m research.push_cut --cuts 20

Against the loopback Hub of the tests: each time a first version is there, the push of a second one is cut after a
random number of bytes (the server drops every connection from then on), then the same push is made again. Prints for
each cut what had arrived and how much the repeat still sent; exit code 1 if a branch ever held anything but one of the
two versions, or its history a commit too many. Waits between tries are left out.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path


os.environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_TOKEN": "hf_writer"}
os.environ["HF_HUB_OFFLINE"] = "0"

from huggingface_hub import constants, logging  # noqa: E402

from rdrec.publishing.hub import Hub, PublishError, Target, with_manifest  # noqa: E402
from tests.fakes.hub_server import Account, HubServer  # noqa: E402


def version(seed: int, large: int) -> dict[str, bytes]:
    """Files of a repo: a card, some code, three large files."""
    draw = random.Random(seed)
    files = {f"weights-{number}.safetensors": draw.randbytes(large) for number in range(3)}
    files |= {f"code_{number}.py": draw.randbytes(200).hex().encode() for number in range(5)}
    return {**files, "README.md": b"---\nlicense: mit\n---\n# Release %d\n" % seed}


def push(target: Target, files: dict[str, bytes]) -> None:
    hub = Hub()
    hub.push(hub.inspect(target, files))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--large", type=int, default=2_000_000, help="bytes of each large file")
    options = parser.parse_args()
    logging.set_verbosity_error()
    time.sleep = lambda seconds: None
    draw = random.Random(options.seed)
    first, second = version(1, options.large), version(2, options.large)
    bad = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        HubServer(Path(folder), {"hf_writer": Account("rdrec")}, part_size=options.large // 3) as server,
    ):
        constants.ENDPOINT = server.url
        constants.HUGGINGFACE_CO_URL_TEMPLATE = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        constants.HF_HUB_CACHE = f"{folder}/cache"
        whole = None
        print(f"{'cut at':>8}  {'branch then':>12}  {'commits':>7}  {'repeat sent':>11}  whole")
        for number in range(options.cuts + 1):
            target = Target(f"rdrec/m{number}")
            push(target, first)
            # An object that another repo brought would not be sent again.
            for path in (server.folder / "lfs").iterdir():
                if path.read_bytes() not in first.values():
                    path.unlink()
            before, spent = server.files(target.repo_id), server.spent
            if whole is None:
                push(target, second)
                whole = server.spent - spent
                after = {**before, **with_manifest(second)}
                continue
            at = draw.random()
            server.cut_after(int(at * whole))
            try:
                push(target, second)
                raise RuntimeError("the push was not cut")
            except PublishError:
                then = server.files(target.repo_id)
            server.cut_after(None)
            spent = server.spent
            push(target, second)
            sent = server.spent - spent
            now, titles = server.files(target.repo_id), server.titles(target.repo_id)
            fine = then in (before, after) and now == after and len(titles) == 3
            bad += not fine
            state = "first" if then == before else "second" if then == after else "neither"
            print(f"{at:>8.1%}  {state:>12}  {len(titles):>7}  {sent / whole:>11.1%}  {'yes' if fine else 'NO'}")
    print(f"{options.cuts - bad} of {options.cuts} whole, with a clean history")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
