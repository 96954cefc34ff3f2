"""The command: measures what several servers on a stream cost, and reckons what users need."""

import json
import os
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from benchmarks import machine
from benchmarks.scale import costs as costs_module
from benchmarks.scale import pictures, tables, units, users
from benchmarks.works.base import Figures

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
COSTS, USERS = HERE / "costs.json", HERE / "users.json"
_OUTPUT = click.Path(path_type=Path, dir_okay=False)
_QUIET = Console(stderr=True)


@click.group()
def main() -> None:
    """Measure several servers on one stream of NATS JetStream, and reckon what users need."""
    # It is there for this package; a server has to be the one its own Python knows.
    os.environ.pop("PYTHONPATH", None)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # So that the blocks are left, and the servers ended, on a plain kill as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


@main.command("users")
@click.option("--most", default=10_000, show_default=True, help="How many users connect.")
@click.option("--rate", default=100.0, show_default=True, help="Durable events a second.")
@click.option("--transient", default=2, show_default=True, help="Transient ones behind each.")
@click.option("--seconds", default=10.0, show_default=True, help="At each number of users.")
@click.option("--rounds", default=3, show_default=True, help="Of each, in turn.")
@click.option("--output", type=_OUTPUT, default=USERS, help="Where the figures go.")
def of_users(
    most: int, rate: float, transient: int, seconds: float, rounds: int, output: Path
) -> None:
    """Measure what more users cost the NATS server."""
    steps = [0, most // 10, most // 2, most]
    effort = users.Effort(steps, rate, seconds, transient)
    before = os.getloadavg()
    found: dict[str, list[list[Figures]]] = {each: [] for each in users.CONTENDERS}
    faults: list[str] = []
    with tempfile.TemporaryDirectory(prefix="bench-", dir=output.parent) as made:
        for number in range(rounds):
            for contender in users.CONTENDERS:
                with _QUIET.status("") as status:
                    folder = Path(made) / f"{number}-{contender.replace(' ', '-')}"
                    rows, fault = users.play(contender, effort, folder, status.update)
                found[contender].append(rows)
                if fault is not None:
                    faults.append(f"{contender}, behind {len(rows)} steps: {fault}")
                    _QUIET.print(faults[-1], style="red", markup=False)
    measured = machine.describe() | {
        "when": time.strftime("%Y-%m-%d", time.gmtime()),
        "load before": list(before),
        "load after": list(os.getloadavg()),
        "effort": vars(effort) | {"rounds": rounds},
        "faults": faults,
    }
    contenders = {name: _medians(each) for name, each in found.items()}
    output.write_text(json.dumps({"measured": measured, "contenders": contenders}, indent=1) + "\n")
    click.echo(tables.users_table(contenders))
    if faults:
        sys.exit(1)


def _medians(rounds: Sequence[Sequence[Figures]]) -> list[Figures]:
    """Return the medians of each step, as far as all rounds came."""
    return [
        {name: float(f"{statistics.median(each[name] for each in step):.4g}") for name in step[0]}
        for step in zip(*rounds, strict=False)
    ]


@main.command("costs")
@click.option("--rounds", default=3, show_default=True, help="Of each work.")
@click.option("--quick", is_flag=True, help="Short rounds: does it run, and roughly how much?")
@click.option("--output", type=_OUTPUT, default=COSTS, help="Where the figures go.")
def of_costs(rounds: int, *, quick: bool, output: Path) -> None:
    """Measure what an event, a device, a connect and a user cost."""
    effort = (
        units.Effort(rounds, requests=500, devices=100, users=1000, seconds=1.0)
        if quick
        else units.Effort(rounds, requests=5000, devices=4000, users=100_000, seconds=10.0)
    )
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=output.parent) as made,
        _QUIET.status("") as status,
    ):
        found = units.measure(effort, Path(made), status.update)
    output.write_bytes(costs_module.dump(found))
    click.echo(tables.node_table(found))
    click.echo(tables.engine_table(found))


@main.command("page")
@click.option(
    "--page",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=ROOT / "docs" / "scale-out.md",
    help="Whose tables are made anew.",
)
@click.option(
    "--pictures",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=ROOT / "docs" / "scale-out",
    help="Where the plots go.",
)
def of_page(page: Path, folder: Path) -> None:
    """Make the tables and plots of docs/scale-out.md of the figures that are kept."""
    kept, by_users = costs_module.load(COSTS.read_bytes()), json.loads(USERS.read_text())
    page.write_text(tables.filled(page.read_text(), tables.tables(kept, by_users)))
    for path in pictures.draw(kept, by_users, folder):
        click.echo(path)


if __name__ == "__main__":
    main()
