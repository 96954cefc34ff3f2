"""What a run prints: a table and bars for each case, then the targets."""

from collections.abc import Sequence

import plotext  # type: ignore[import-untyped]  # it comes without types
from rich.console import Console
from rich.table import Table

from benchmarks.results import Contender, Outcome
from benchmarks.targets import Verdict

BARS = 72
"""How wide the bars are with their labels, in characters."""


def show(console: Console, outcome: Outcome) -> None:
    """Print a case: medians, spreads, ratios of the first of ours to each."""
    table = Table("", title=outcome.title, title_justify="left")
    for name in outcome.figures():
        table.add_column(name, justify="right")
    table.add_column("ours / it", justify="right")
    ours = outcome.median("ours", outcome.main)
    for each in outcome.contenders:
        if each.fault is not None and not each.rounds:
            table.add_row(each.label, f"[red]{each.fault}")
            continue
        cells = [_cell(each, name) for name in outcome.figures()]
        its = each.median(outcome.main)
        table.add_row(each.label, *cells, f"{ours / its:.2f}" if ours and its else "–")
    console.print(table)
    measured = [(each.label, each.median(outcome.main)) for each in outcome.contenders]
    bars = [(label, value) for label, value in measured if value is not None]
    if len(bars) > 1:
        plotext.simple_bar(
            [label for label, _ in bars],
            [value for _, value in bars],
            width=BARS,
            title=f"{outcome.main}: {outcome.title}",
        )
        # As it is with colours, without for a file or a pipe.
        built = plotext.build()
        console.file.write(built if console.is_terminal else plotext.uncolorize(built))
        console.file.write("\n")
        plotext.clear_figure()


def _cell(contender: Contender, name: str) -> str:
    median = contender.median(name)
    if median is None:
        return "–"
    return f"{number(median)} ±{contender.spread(name):.0%}"


def number(value: float) -> str:
    """Write a figure with three digits that count."""
    if abs(value) >= 100:  # noqa: PLR2004 - three digits
        return f"{value:,.0f}"
    return f"{value:.3g}"


def show_targets(console: Console, verdicts: Sequence[Verdict]) -> None:
    """Print what became of the targets."""
    table = Table("target", "of", "at most", "figure", "", title="Targets", title_justify="left")
    colours = {"reached": "green", "missed": "red", "not measured": "dim"}
    for each in verdicts:
        table.add_row(
            each.title,
            each.label,
            f"{number(each.bound)} {each.unit}",
            "–" if each.figure is None else f"{number(each.figure)} {each.unit}",
            f"[{colours[each.word]}]{each.word}",
        )
    console.print(table)
