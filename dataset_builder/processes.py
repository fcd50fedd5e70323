"""Work in several processes, whose results come in the order of the tasks, however many processes there are.

    with processes(2) as run:
        for found in run(count, tasks): ...

Processes are started anew (`spawn`) and not forked: a fork of a process whose libraries have threads may hang.
"""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

from rdrec.errors import DatasetError


def usable_cores() -> int:
    """Cores that this process may run on, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def processes(count: int) -> Iterator[Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]]:
    """Give a `map` over `count` processes; with one, it runs here, task by task.

    Raises
    ------
    DatasetError
        `count` is below 1, or a process was ended from outside, as the system does where memory is short.
    """
    if count < 1:
        raise DatasetError(f"--processes {count}: must be 1 or more")
    if count == 1:
        yield map
        return
    pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_leave_interrupts_to_the_parent)
    try:
        yield pool.map
    except BrokenProcessPool as error:
        raise DatasetError(
            f"one of {count} processes was ended, as happens where memory is short; run again with --processes 1"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
