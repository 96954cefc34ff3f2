"""What must be reached, and whether it was."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.results import Contender, Outcome

Outcomes = Mapping[str, Outcome]
"""Outcomes by the key of their case."""


@dataclass(frozen=True)
class Target:
    """A bound for a figure that is made of medians."""

    title: str
    unit: str
    bound: float
    figure: Callable[[Outcomes, Contender], float | None]
    """Computes it for one version of ours; None where something was not measured."""

    case: str
    """The case whose contenders it is about."""


@dataclass(frozen=True)
class Verdict:
    """What became of a target for one version."""

    title: str
    label: str
    figure: float | None
    bound: float
    unit: str

    @property
    def word(self) -> str:
        """Say it in a word."""
        if self.figure is None:
            return "not measured"
        return "reached" if self.figure <= self.bound else "missed"


def ratio(
    case: str, figure: str, kind: str, *, its_case: str | None = None
) -> Callable[[Outcomes, Contender], float | None]:
    """Return what computes a figure's ratio to that of a peer of a kind, maybe of another case."""

    def compute(outcomes: Outcomes, ours: Contender) -> float | None:
        other = outcomes.get(its_case or case)
        theirs = other.median(kind, figure) if other is not None else None
        mine = ours.median(figure)
        return None if mine is None or not theirs else mine / theirs

    return compute


def value(figure: str) -> Callable[[Outcomes, Contender], float | None]:
    """Return what reads a figure as it is."""
    return lambda _outcomes, ours: ours.median(figure)


def beyond(figure: str, fsyncs: int) -> Callable[[Outcomes, Contender], float | None]:
    """Return what takes a latency less so many syncs of the same disk, measured beside it."""

    def compute(_outcomes: Outcomes, ours: Contender) -> float | None:
        mine, sync = ours.median(figure), ours.median("one fsync ms")
        return None if mine is None or sync is None else mine - fsyncs * sync

    return compute


def over_smaller(smaller: str, figure: str) -> Callable[[Outcomes, Contender], float | None]:
    """Return what divides a version's figure by its own of a smaller case, or log.

    Of a case with logs of several sizes the first is meant, which has the smallest.
    """

    def compute(outcomes: Outcomes, ours: Contender) -> float | None:
        others = outcomes[smaller].contenders if smaller in outcomes else ()
        mine = ours.median(figure)
        for other in others:
            if other.version == ours.version and (base := other.median(figure)) and mine:
                return mine / base
        return None

    return compute


_DELIVERY, _EVENT = "CPU µs/delivery", "CPU µs/event"
_CONNECT, _RESUME = "CPU µs/connect", "CPU µs/resume"

TARGETS: tuple[Target, ...] = (
    Target(
        "fan-out, one event at a time, 500 devices, to ws",
        "×", 0.75, ratio("fan-out-durable-500", _DELIVERY, "ws"), "fan-out-durable-500",
    ),
    Target(
        "fan-out, one event at a time, 500 devices, to the raw loop",
        "×", 1.3, ratio("fan-out-durable-500", _DELIVERY, "raw"), "fan-out-durable-500",
    ),
    Target("200 durable events to 100 devices, to ws",
           "×", 0.05, ratio("burst", _DELIVERY, "ws"), "burst"),
    Target("replay of 500 to each of 100 devices, to ws",
           "×", 0.08, ratio("replay-500", _EVENT, "ws"), "replay-500"),
    Target("replay of 500 to each of 100 devices, to Nchan",
           "×", 1.0, ratio("replay-500", _EVENT, "nchan"), "replay-500"),
    Target("connecting, token checked, no backlog, to ws",
           "×", 1.0, ratio("connect", _CONNECT, "ws"), "connect"),
    Target("memory of an idle connection of 8,000",
           "KiB", 11.0, value("PSS KiB/connection"), "memory-8000"),
    Target("one durable event an HTTP request, 32 emitters, to ws in memory",
           "×", 2.2, ratio("emit", _EVENT, "ws"), "emit"),
    Target("batches of 1,000 durable events, to ws in memory",
           "×", 1.3, ratio("emit-batch", _EVENT, "ws"), "emit-batch"),
    Target("64 callers of the Python emitter, to a request to ws each",
           "×", 0.5, ratio("emitter", _EVENT, "ws"), "emitter"),
    Target("1,000 durable events/s: p50 beyond one fsync",
           "ms", 1.0, beyond("p50 ms", 1), "latency-1000"),
    Target("1,000 durable events/s: p99 beyond three fsyncs",
           "ms", 10.0, beyond("p99 ms", 3), "latency-1000"),
    Target("a delivery at 5,000 devices, to one at 500",
           "×", 1.15, over_smaller("fan-out-durable-500", _DELIVERY), "fan-out-durable-5000"),
    Target("an attach in the largest log, to the smallest",
           "×", 1.15, over_smaller("growth-attach", _RESUME), "growth-attach"),
    Target("a page in the largest log, to the smallest",
           "×", 1.15, over_smaller("growth-page", _RESUME), "growth-page"),
)  # fmt: skip


def _largest(contenders: list[Contender]) -> list[Contender]:
    """Leave one of each version: the last, which has the largest log."""
    return list({each.version: each for each in contenders}.values())


def judge(outcomes: Outcomes) -> list[Verdict]:
    """Judge the targets of all cases that were played, for each version of ours."""
    return [
        Verdict(
            target.title, ours.version, target.figure(outcomes, ours), target.bound, target.unit
        )
        for target in TARGETS
        if target.case in outcomes
        for ours in _largest(outcomes[target.case].of_kind("ours"))
    ]
