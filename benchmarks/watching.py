"""A command in a process of its own, watched: how long it takes and how much memory it and its helpers hold.

found = watched([sys.executable, "train.py", "--config", "recipes/sample.yaml"])
found.wall_s, found.cpu_s, found.peak_mb, found.memory_mb, found.stderr
"""

import resource
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import psutil

from rdrec.errors import UserError


EVERY_S = 0.05  # between two looks at the memory


class Watched(NamedTuple):
    """What a command took. Memory, in MB, is what all its processes held together; a shared page counts once.

    `memory_mb` is the most that was held in each tenth of its time, so that what grows can be told from what does not.
    """

    wall_s: float
    cpu_s: float
    peak_mb: int
    memory_mb: list[int]
    stdout: str
    stderr: str


def watched(command: Sequence[str]) -> Watched:
    """Run a command to its end.

    Raises
    ------
    UserError
        It failed; the message has the last line that it printed.
    """
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process, seen = psutil.Process(run.pid), []

    def watch() -> None:
        while run.returncode is None:
            try:
                seen.append(_held(process))
            except psutil.Error:  # it has just ended
                return
            time.sleep(EVERY_S)

    watcher = threading.Thread(target=watch)
    watcher.start()
    stdout, stderr = run.communicate()
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    watcher.join()
    if run.returncode:
        said = (stderr.strip() or stdout.strip() or "no word").splitlines()[-1]
        raise UserError(f"`{' '.join(command)}` failed: {said}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    tenths = [seen[len(seen) * tenth // 10 : len(seen) * (tenth + 1) // 10] for tenth in range(10)]
    in_mb = [round(max(part, default=0) / 2**20) for part in tenths]
    return Watched(round(wall, 1), round(cpu, 1), max(in_mb), in_mb, stdout, stderr)


def _held(process: psutil.Process) -> int:
    """Bytes that a process and those it started hold now."""
    held = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            held += one.memory_full_info().pss
        except psutil.Error:  # it has just ended
            continue
    return held
