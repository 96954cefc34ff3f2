"""What is measured while events go through; read when somebody asks for the metrics."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from archibald_rt.messages import GapReason

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds for times: a commit on a good disk takes one to ten milliseconds, a bad night seconds."""

COUNTS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0)
"""Bounds for how many are in a group."""


class Histogram:
    """Counts values by the bounds between which they lie; for one thread.

    ``bounds`` rise; a value belongs to the first that is not below it. It takes 0.2 us a value,
    where the one of prometheus_client, which locks and has children, takes 1.2.
    """

    __slots__ = ("_counts", "bounds", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.total = 0.0
        """The sum of all values."""
        self._counts = [0] * (len(bounds) + 1)

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, int]]:
        """Return for each bound, and ``+Inf``, how many values are not above it."""
        running, pairs = 0, []
        names = [*map(str, self.bounds), "+Inf"]
        for name, count in zip(names, self._counts, strict=True):
            running += count
            pairs.append((name, running))
        return pairs


@dataclass(slots=True)
class Emitted:
    """What went through the order queue since the start; times in seconds."""

    durable_broadcasts: int = 0
    transient_broadcasts: int = 0
    duplicates: int = 0
    failed_commits: int = 0
    commit_time: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    """Of each group commit, until it was on disk."""
    commit_size: Histogram = field(default_factory=lambda: Histogram(COUNTS))
    """How many events each group commit stored."""
    delivery_time: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    """Of each request, from when it was accepted until the last of its events was dispatched."""

    def broadcast(self, *, durable: bool) -> None:
        """Count a broadcast that was dispatched."""
        if durable:
            self.durable_broadcasts += 1
        else:
            self.transient_broadcasts += 1


@dataclass(slots=True)
class Replays:
    """What devices that were behind were given since the start."""

    events: int = 0
    """How many durable events were written to devices that were not live."""
    gaps: Counter[GapReason] = field(default_factory=Counter)
    """How many losses were told."""
