"""What a run has found out: figures by case and contender, their medians."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.works.base import Figures


@dataclass
class Contender:
    """One server of a case, and what its rounds have shown."""

    label: str
    kind: str
    rows: int | None = None
    """Of the log it serves, where that is what a case is about."""

    version: str = ""
    """The label without the rows."""

    rounds: list[Figures] = field(default_factory=list)
    fault: str | None = None
    """Why there are no figures, or no more."""

    def median(self, figure: str) -> float | None:
        """Return the median of a figure; None if there is none."""
        values = [each[figure] for each in self.rounds if figure in each]
        return statistics.median(values) if values else None

    def spread(self, figure: str) -> float:
        """Return half the range between the quartiles as a share of the median."""
        values = [each[figure] for each in self.rounds if figure in each]
        if len(values) < 2 or not statistics.median(values):  # noqa: PLR2004 - a spread needs two
            return 0.0
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return abs((high - low) / 2 / statistics.median(values))


@dataclass
class Outcome:
    """A case with all its contenders."""

    key: str
    group: str
    title: str
    main: str
    contenders: list[Contender]

    def figures(self) -> list[str]:
        """Return the names of all figures, in the order they came in."""
        names = (name for each in self.contenders for round_ in each.rounds for name in round_)
        return list(dict.fromkeys(names))

    def of_kind(self, kind: str) -> list[Contender]:
        """Return its contenders of a kind."""
        return [each for each in self.contenders if each.kind == kind]

    def median(self, kind: str, figure: str) -> float | None:
        """Return the median of the first contender of a kind; None if there is none."""
        return next((each.median(figure) for each in self.of_kind(kind)), None)


def as_json(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return everything as JSON has it, single rounds included."""
    return [
        {
            "case": outcome.key,
            "title": outcome.title,
            "contenders": [
                {
                    "label": each.label,
                    "kind": each.kind,
                    "fault": each.fault,
                    "medians": {name: each.median(name) for name in outcome.figures()},
                    "rounds": each.rounds,
                }
                for each in outcome.contenders
            ],
        }
        for outcome in outcomes
    ]
