"""The trial as a program, for longer than the test has time; called by scripts/cluster."""

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from statistics import median

import click
from rich.console import Console
from rich.table import Table

from cluster.trial import Fault, Figures, put_through_all, trial


@click.command()
@click.option("--users", type=click.IntRange(1), default=10, show_default=True)
@click.option("--devices", "each", type=click.IntRange(1), default=6, show_default=True)
@click.option(
    "--stay",
    default=3.0,
    show_default=True,
    help="How many seconds a device stays at a node, on average; a third of them stay for good.",
)
@click.option(
    "--pause",
    default=0.02,
    show_default=True,
    help="How many seconds each of the eight emitters waits between two requests.",
)
@click.option("--rounds", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--expected", default=100_000, show_default=True, help="Go on until so many are expected."
)
@click.option("--attaches", default=500, show_default=True, help="And so many were made.")
@click.option("--keep", default=0, help="How many events of a user to keep; 0, all, by default.")
@click.option("--seed", default=1, show_default=True)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="A file for JSON.")
def main(
    users: int,
    each: int,
    stay: float,
    pause: float,
    *,
    rounds: int,
    expected: int,
    attaches: int,
    keep: int,
    seed: int,
    output: Path | None,
) -> None:
    """Put three servers on three NATS servers through faults, with each device counted."""
    console = Console()

    async def run(folder: Path) -> Figures:
        async with trial(
            folder,
            users=users,
            devices_each=each,
            stay=stay,
            pause=pause,
            keep=keep,
            seed=seed,
            say=console.print,
        ) as under:
            done = 0
            while done < rounds or under.delivered < expected or under.attaches < attaches:
                await put_through_all(under, thorough=True, say=console.print)
                done += 1
            return await under.finish()

    with tempfile.TemporaryDirectory(prefix="cluster-") as folder:
        figures = asyncio.run(run(Path(folder)))
    if output is not None:
        output.write_text(json.dumps(figures.as_json(), indent=1) + "\n")
    show(console, figures)
    # Where events are deleted, who is live may have to read, and can't.
    sys.exit(bool(figures.wrong or (figures.cut_off_live and not keep)))


def show(console: Console, figures: Figures) -> None:
    """Print two tables: what was lost, and for how long emissions stopped."""
    table = Table("", "", title="What became of it", title_justify="left")
    for name, value in figures.as_json().items():
        if not isinstance(value, list | dict):
            table.add_row(name.replace("_", " "), f"{value:,.0f}")
    table.add_row("requests", ", ".join(f"{n:,} × {s}" for s, n in figures.statuses.items()))
    table.add_row("wrong", ", ".join(f"{n} {what}" for what, n in figures.wrong.items()) or "0")
    console.print(table)
    table = Table(
        "fault",
        "times",
        "at any node",
        "at the worst",
        "after mending",
        title="Seconds without an answer of 200: median, longest",
        title_justify="left",
    )
    for what in dict.fromkeys(fault.what for fault in figures.faults):
        of_it = [fault for fault in figures.faults if fault.what == what]
        table.add_row(what, str(len(of_it)), *_cells(of_it))
    console.print(table)


def _cells(faults: list[Fault]) -> list[str]:
    columns: list[list[float]] = [
        [fault.at_any_node for fault in faults],
        [fault.at_worst_node for fault in faults],
        [fault.after_mending for fault in faults if fault.after_mending is not None],
    ]
    return [f"{median(each):.1f}, {max(each):.1f}" if each else "" for each in columns]


if __name__ == "__main__":
    main()
