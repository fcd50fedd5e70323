"""Limiter: how many requests one endpoint gets at once. It looks for the point where more at once gives no more.

    limiter = Limiter(most=64)
    limiter.begin(); …; limiter.answered(seconds)       # or pushed_back(pause), timed_out(), failed()

A busy language model gets slower with every request, so latency alone says little. What counts is answers per second:
the limit is raised (doubled at first, by a quarter later) and stays raised only if the rate rose with it; when latency
doubles at the same limit, or the server says 429 or 503, it falls.
"""

import math
import random
import time
from collections.abc import Callable


START = 8
LONGEST_PAUSE = 30.0  # seconds between tries at a server that is down
GAIN = 0.1  # share of the added requests that must come back as added rate
REST = 8  # windows between two tries at a higher limit, once one failed


class Limiter:
    """Requests in flight at one endpoint.

    Parameters
    ----------
    most : int
        Never more than so many.
    clock : callable
        Seconds, monotonic.

    Attributes
    ----------
    limit, in_flight : int
    paused_until : float
        No request before that moment of the clock.
    down : bool
        Whether the endpoint failed many times in a row: then one request at a time tries it.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic):
        self.most = most
        self.clock = clock
        self.limit = min(most, START)
        self.in_flight = 0
        self.paused_until = 0.0
        self.down = False
        self._failures = 0  # in a row
        self._waves = 0  # tries since it is down
        self._growth = 2.0
        self._rest = 0
        self._calm_until = 0.0  # one wave of 429 lowers the limit once
        self._pushes = 0  # 429 and 503 since the last answer
        self._known: tuple[float, float] | None = None  # rate and latency at this limit
        self._raised_from: int | None = None
        self._new_window()

    def free(self) -> int:
        """How many requests may begin now."""
        return max(0, self.limit - self.in_flight) if self.clock() >= self.paused_until else 0

    def begin(self) -> None:
        self.in_flight += 1

    def answered(self, latency: float) -> None:
        """A request that took `latency` seconds was answered."""
        self.in_flight -= 1
        self._failures = self._pushes = 0
        if self.down:
            self.down = False
            self._set(min(self.most, START))
            self._growth, self._rest, self._known = 2.0, 0, None
            return
        if self._skip:
            # Begun under the limit before: says nothing about this one.
            self._skip -= 1
            if not self._skip:
                self._began = self.clock()
            return
        self._count += 1
        self._latency += latency
        if self._count >= 2 * self.limit:
            elapsed = self.clock() - self._began
            if elapsed > 0:
                self._judge(self._count / elapsed, self._latency / self._count)
            self._new_window()

    def pushed_back(self, pause: float | None) -> float:
        """The server said 429 or 503, and perhaps how long to wait. Returns the pause in seconds."""
        self.in_flight -= 1
        self._pushes += 1
        if pause is None:
            waves = self._pushes / max(1, self.limit)
            pause = min(LONGEST_PAUSE, 0.5 * 2 ** min(waves, 10)) * random.uniform(0.5, 1.0)
        self.paused_until = max(self.paused_until, self.clock() + pause)
        self._fall()
        return pause

    def timed_out(self) -> None:
        """No answer in time: the strongest sign of too much at once."""
        self._fall()
        self.failed()

    def failed(self) -> None:
        """A cut connection, a 500, a body that is no answer. A few say nothing; a row of them says: down."""
        self.in_flight -= 1
        self._failures += 1
        if not self.down and self._failures >= max(4, self.limit):
            self.down, self._waves = True, 0
            self._set(1)
        elif self.down and not self.in_flight:  # the single request that tried it
            self._waves += 1
        if self.down:
            pause = min(LONGEST_PAUSE, 0.5 * 2 ** min(self._waves, 10)) * random.uniform(0.5, 1.0)
            self.paused_until = max(self.paused_until, self.clock() + pause)

    def _fall(self) -> None:
        now = self.clock()
        if now < self._calm_until:
            return
        latency = self._known[1] if self._known else 1.0
        self._calm_until = max(now + latency, self.paused_until)
        self._set(max(1, self.limit // 2))
        self._growth, self._rest, self._known = 1.25, 2, None

    def _judge(self, rate: float, latency: float) -> None:
        if self._raised_from is not None and self._known is not None:
            before, self._raised_from = self._raised_from, None
            if rate < self._known[0] * (1 + GAIN * (self.limit / before - 1)):
                self._growth, self._rest = 1.25, REST
                self._set(before)
                return
        elif self._known is not None and latency > 2 * self._known[1]:
            self._known, self._rest = None, REST
            self._set(max(1, math.floor(self.limit * 0.75)))
            return
        self._known = (rate, latency)
        if self._rest:
            self._rest -= 1
        elif self.limit < self.most:
            before = self.limit
            self._set(min(self.most, math.ceil(self.limit * self._growth)))
            self._raised_from = before

    def _set(self, limit: int) -> None:
        self.limit = limit
        self._raised_from = None
        self._new_window()

    def _new_window(self) -> None:
        self._skip = self.in_flight
        self._began = self.clock()
        self._count, self._latency = 0, 0.0
