"""The command: reads its options, plays the cases, prints and keeps what they show."""

import json
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.status import Status

from benchmarks import machine, plots, report
from benchmarks.cases import CASES, GROUPS
from benchmarks.logs import Logs
from benchmarks.peers.base import Peer
from benchmarks.peers.nchan import Nchan
from benchmarks.peers.ours import Ours
from benchmarks.peers.programs import RAW, SOCKETIO, TORNADO, WS
from benchmarks.results import Outcome, as_json
from benchmarks.runner import Effort, play
from benchmarks.targets import judge

CACHE = Path(__file__).parent.parent / "var" / "bench"
LOGS = Logs(CACHE / "logs")
KINDS = ("ws", "socketio", "nchan", "tornado", "raw")
BY_DEFAULT = ("fan-out", "burst", "connect", "replay", "emit", "memory")


def _words(*allowed: str) -> Callable[[click.Context, click.Parameter, str], tuple[str, ...]]:
    """Return a callback that reads words between commas."""

    def read(_context: click.Context, _option: click.Parameter, value: str) -> tuple[str, ...]:
        words = tuple(word for word in value.split(",") if word)
        for word in words:
            if word not in (*allowed, "all", "none"):
                raise click.BadParameter(
                    f"{word} is none of {', '.join((*allowed, 'all', 'none'))}"
                )
        return allowed if "all" in words else tuple(word for word in words if word != "none")

    return read


def _server(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> list[Ours]:
    servers = []
    for value in values:
        label, equals, python = value.rpartition("=")
        # Not resolved: the link in a virtual environment is what makes it one.
        servers.append(Ours(label if equals else "archibald_rt", str(Path(python).absolute())))
    if len({each.label for each in servers}) < len(servers):
        raise click.BadParameter("each needs a label of its own: LABEL=PYTHON")
    return servers or [Ours("archibald_rt", sys.executable)]


@click.command()
@click.option(
    "--works",
    callback=_words(*GROUPS),
    default=",".join(BY_DEFAULT),
    show_default=True,
    help=f"What to measure, of: {', '.join(GROUPS)}; or all.",
)
@click.option(
    "--cases", "only", help="Only cases whose key has one of these words in it: 500,batch."
)
@click.option(
    "--peers",
    "kinds",
    callback=_words(*KINDS),
    default="all",
    show_default=True,
    help=f"Whom to compare with, of: {', '.join(KINDS)}; all or none.",
)
@click.option(
    "--server",
    "servers",
    multiple=True,
    callback=_server,
    metavar="[LABEL=]PYTHON",
    help="A Python whose archibald_rt is measured; several alternate. Default: this one's.",
)
@click.option("--rounds", type=click.IntRange(1), help="Of each case; 7, with --quick 2.")
@click.option("--quick", is_flag=True, help="Short rounds: does it run, and roughly how fast?")
@click.option(
    "--rows",
    type=click.IntRange(1000),
    default=1_000_000,
    show_default=True,
    help="Of the largest log in growth, at most; made once and kept in var/bench.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for results.json and the plots. Default: var/bench/<time>.",
)
@click.option("--plots/--no-plots", "draw", default=True, help="Draw PNG files.")
def main(
    works: tuple[str, ...],
    only: str | None,
    kinds: tuple[str, ...],
    servers: list[Ours],
    rounds: int | None,
    rows: int,
    *,
    quick: bool,
    output: Path | None,
    draw: bool,
) -> None:
    """Measure archibald_rt beside other servers, in turn, on this machine."""
    # It is there for this package; a server has to be the one its own Python knows.
    os.environ.pop("PYTHONPATH", None)
    console = Console()
    quiet = Console(stderr=True)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # So that the blocks are left, and the servers ended, on a plain kill as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))

    folder = output or CACHE / datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    folder.mkdir(parents=True, exist_ok=True)
    cases = [case for case in CASES if case.group in works]
    if only is not None:
        cases = [case for case in cases if any(word in case.key for word in only.split(","))]
    peers: list[Peer] = []
    left_out: dict[str, str] = {}
    for peer in (*servers, *(each for each in _peers() if each.kind in kinds)):
        quiet.print(f"[dim]{peer.label}: getting ready")
        if why := peer.missing():
            left_out[peer.label] = why
            console.print(f"left out: {peer.label}: {why}", style="yellow", markup=False)
        else:
            peers.append(peer)

    effort = Effort(rounds or (2 if quick else 7), quick, rows)
    known = {"machine": machine.describe(), "left out": left_out, "effort": vars(effort)}
    outcomes: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory(prefix="bench-", dir=folder) as made:
        sync = machine.fsync_time(Path(made))
        console.print(f"one fsync on this disk: {sync * 1e3:.2f} ms")
        for case in cases:
            with quiet.status(case.title) as status:
                say = partial(_update, status, f"{case.title} · ")
                outcomes[case.key] = play(case, peers, LOGS, Path(made), effort, say)
            report.show(console, outcomes[case.key])
            if draw:
                plots.plot(outcomes[case.key], folder)
            # Kept after each case: a long run that is ended early has not been for nothing.
            _keep(folder / "results.json", {**known, "fsync seconds": sync}, outcomes)
    report.show_targets(console, judge(outcomes))
    console.print(f"results: {folder / 'results.json'}", soft_wrap=True)
    if any(each.fault for outcome in outcomes.values() for each in outcome.contenders):
        sys.exit(1)


def _update(status: Status, title: str, text: str) -> None:
    status.update(title + text)


def _keep(file: Path, known: dict[str, Any], outcomes: Mapping[str, Outcome]) -> None:
    targets = [vars(each) | {"verdict": each.word} for each in judge(outcomes)]
    cases = as_json(list(outcomes.values()))
    file.write_text(json.dumps(known | {"cases": cases, "targets": targets}, indent=1) + "\n")


def _peers() -> tuple[Peer, ...]:
    return (WS, SOCKETIO, Nchan(CACHE), TORNADO, RAW)


if __name__ == "__main__":
    main()
