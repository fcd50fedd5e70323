"""The catalog trie at 10^4 to 10^7 items: time and memory of building it, its file, and what a step of decoding costs.

    python -m benchmarks.trie
    python -m benchmarks.trie --tokenizer google-t5/t5-small --sizes 10000 100000

Each size is measured in a process of its own, so that its peak memory (of the whole process, Python and PyTorch
included) is its own. A step is what the search asks of the trie for 32 users of 20 beams: the children of the beams'
nodes, but for those that a history of 20 items excludes. Each user's beams stand at random nodes of one level, and the
level whose step takes longest is reported. It costs by the child: a node of a larger catalog has more children, but no
more than the vocabulary has pieces of numbers.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from modeling_rdrec import RDRecTokenizer
from modeling_rdrec.catalog_trie import CatalogTrie


USERS, BEAMS, HISTORY = 32, 20, 20
REPEATS = 50


def measure(tokenizer_name: str | None, size: int) -> dict[str, float]:
    """Build, save, map and query a trie of `size` items; seconds, bytes and counts by name."""
    if tokenizer_name is None:
        from rdrec.tasks.vocabulary import train_tokenizer

        tokenizer = train_tokenizer(["user item"], vocab_size=2000)
    else:
        tokenizer = RDRecTokenizer.from_pretrained(tokenizer_name)
    began = time.perf_counter()
    built = CatalogTrie.build(tokenizer, size)
    figures = {"build_s": time.perf_counter() - began, "nodes": built.num_nodes, "longest": built.longest}
    figures["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "catalog_trie.npy"
        built.save(path)
        figures["file_bytes"] = path.stat().st_size
        began = time.perf_counter()
        trie = CatalogTrie.load(path)
        figures["load_s"] = time.perf_counter() - began
        rng = np.random.default_rng(0)
        exclusion = trie.exclusion(rng.integers(1, size + 1, (USERS, HISTORY)).tolist())
        figures["step_s"] = 0.0
        start, stop = 1, int(trie.first_child[1])
        while start < trie.num_nodes:
            count = min(BEAMS, stop - start)
            nodes = torch.from_numpy(
                np.concatenate([rng.choice(stop - start, count, replace=False) for _ in range(USERS)])
            )
            rows = torch.arange(USERS).repeat_interleave(count)
            times = []
            for _ in range(REPEATS):
                began = time.perf_counter()
                parent, child = trie.children(nodes + start)
                kept = ~exclusion.of_nodes(rows[parent], child)
                parent, child = parent[kept], child[kept]
                times.append(time.perf_counter() - began)
            if statistics.median(times) > figures["step_s"]:
                figures |= {"step_s": statistics.median(times), "beams": len(nodes), "children": len(child)}
            start, stop = stop, int(trie.first_child[stop])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", help="Folder or Hub id; default: this project's own number pieces.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**4, 10**5, 10**6, 10**7])
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.tokenizer, arguments.sizes[0])))
        return
    print(
        f"{'items':>10} {'nodes':>10} {'longest':>8} {'build s':>8} {'peak GB':>8} {'file MB':>8} {'load ms':>8} "
        f"{'step ms':>8} {'beams':>6} {'children':>9} {'ns/child':>9}"
    )
    for size in arguments.sizes:
        command = [sys.executable, "-m", "benchmarks.trie", "--one", "--sizes", str(size)]
        if arguments.tokenizer is not None:
            command += ["--tokenizer", arguments.tokenizer]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        f = json.loads(done.stdout)
        print(
            f"{size:>10} {f['nodes']:>10} {f['longest']:>8} {f['build_s']:>8.2f} {f['peak_bytes'] / 1e9:>8.2f} "
            f"{f['file_bytes'] / 1e6:>8.1f} {1000 * f['load_s']:>8.2f} "
            f"{1000 * f['step_s']:>8.2f} {f['beams']:>6} {f['children']:>9} {1e9 * f['step_s'] / f['children']:>9.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
