"""What the fault suite measures, a row for each fault, and how long it goes at it."""

import json
import os
from collections.abc import Collection
from pathlib import Path

EFFORT = float(os.environ.get("FAULTS_EFFORT", "1"))
"""How many times the usual number of tries a test makes; `scripts/faults` makes more."""


def times(count: int) -> int:
    """Return how often to try what is usually tried `count` times, at least once."""
    return max(1, round(count * EFFORT))


class Report:
    """Takes down the row of a test, for `scripts/faults` to make a table of.

    ``declared`` are the faults that the test says it produces, by ``@pytest.mark.fault``.
    """

    def __init__(self, declared: Collection[str]) -> None:
        self.declared = declared
        self.noted: list[str] = []

    def note(
        self, fault: str, *, how: str, tried: str, checked: str, lost: int, figures: str = ""
    ) -> None:
        """Take down what came of a fault, and fail if anything was lost.

        ``how`` it was produced, how often it was ``tried`` and what was ``checked``, with
        the numbers of this run; ``lost`` is what was answered as durable and is missing, or
        was got wrong, as counted by the test. ``figures`` are what else is worth knowing.
        """
        assert fault in self.declared, f"not declared by @pytest.mark.fault: {fault}"
        self.noted.append(fault)
        row = {
            "fault": fault,
            "how": how,
            "tried": tried,
            "checked": checked,
            "lost": lost,
            "figures": figures,
        }
        if path := os.environ.get("FAULTS_REPORT"):
            with Path(path).open("a") as report:
                report.write(json.dumps(row) + "\n")
        assert lost == 0, row
