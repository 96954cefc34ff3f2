"""Bars of each case as PNG files."""

from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.results import Outcome

OURS, THEIRS = "#1b6ca8", "#b8c4cc"


def plot(outcome: Outcome, folder: Path) -> Path | None:
    """Draw a case's main figure by contender; returns the file, None if there is nothing."""
    bars = [
        (each.label, median, each.spread(outcome.main) * median, each.kind)
        for each in outcome.contenders
        if (median := each.median(outcome.main)) is not None
    ]
    if not bars:
        return None
    labels, values, errors, kinds = zip(*reversed(bars), strict=True)
    # A figure of its own, not pyplot's: that one is global and looks for a display.
    figure = Figure(figsize=(7, 1 + 0.4 * len(bars)), layout="constrained")
    axes = figure.add_subplot()
    colours = [OURS if kind == "ours" else THEIRS for kind in kinds]
    axes.barh(labels, values, xerr=errors, color=colours)
    axes.set_xlabel(outcome.main)
    axes.set_title(outcome.title, fontsize="medium")
    path = folder / f"{outcome.key}.png"
    figure.savefig(path, dpi=120)
    return path
