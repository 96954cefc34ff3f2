"""``archibald-rt log``: what an operator does with the log besides serving it."""

import os
import signal
import sys
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from archibald_rt import logs
from archibald_rt.cli.engines import engine_of, require_sqlite
from archibald_rt.cli.options import config_option, load_settings
from archibald_rt.cli.progress import shown
from archibald_rt.errors import ArchibaldError, LogInUseError
from archibald_rt.eventlog.access import write_access
from archibald_rt.eventlog.copying import back_up
from archibald_rt.eventlog.epochs import replace_epoch
from archibald_rt.eventlog.ndjson import MAX_MILLISECONDS
from archibald_rt.eventlog.offline import prune as prune_log
from archibald_rt.eventlog.staging import explained, staged
from archibald_rt.server import retention_of
from archibald_rt.settings import Settings
from archibald_rt.timestamps import from_epoch

MOST_FAULTS = 20
"""How many faults of a log are told."""

STDOUT = "-"


class FaultyLogError(ArchibaldError):
    """The log was looked through and is not good."""


@click.group()
def log() -> None:
    """Look after the log that is configured.

    stats, check, backup and export work beside a running server or without one, and change
    nothing. prune, new-epoch and import need the server stopped. With [log] engine = nats there
    are stats, check, export and import.
    """
    # As Ctrl-C: what was begun is cleaned up.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


@log.command()
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@config_option
def stats(config_path: Path | None, *, as_json: bool) -> None:
    """Print the log's figures."""
    engine = engine_of(_settings(config_path))
    with shown() as progress:
        progress("counting", 0, None)
        figures = _figures(engine.figures())
    if as_json:
        click.echo(msgspec.json.encode(figures))
        return
    for name, value in figures.items():
        click.echo(f"{name:<14} {'-' if value is None else value}")


@log.command()
@click.option(
    "--full", is_flag=True, help="Compare the indexes with the tables, too; takes longer."
)
@config_option
def check(config_path: Path | None, *, full: bool) -> None:
    """Say whether the log is good; exit 1 if it is not."""
    engine = engine_of(_settings(config_path))
    with shown() as progress:
        faults = list(islice(engine.check(full=full, progress=progress), MOST_FAULTS + 1))
    for fault in faults[:MOST_FAULTS]:
        click.echo(fault)
    if len(faults) > MOST_FAULTS:
        raise FaultyLogError(f"{engine.name}: has more than {MOST_FAULTS} faults")
    if faults:
        raise FaultyLogError(f"{engine.name}: is not good, faults: {len(faults)}")
    click.echo("the log is good")


@log.command()
@click.argument("destination", metavar="DEST", type=click.Path(path_type=Path))
@config_option
def backup(destination: Path, config_path: Path | None) -> None:
    """Copy the log to the file DEST, beside a running server or without one."""
    path = _settings(config_path, "backup").log.path
    with shown() as progress:
        made = back_up(path, destination, progress=progress)
    click.echo(f"{made.events} events, up to seq {made.head}, in {destination}")


@log.command()
@config_option
def prune(config_path: Path | None) -> None:
    """Delete what is beyond the configured limits, from a log that no server runs on."""
    limits = _settings(config_path, "prune").log
    with shown() as progress:
        try:
            deleted = prune_log(limits.path, retention_of(limits), progress=progress)
        except LogInUseError as error:
            raise LogInUseError(
                f"{error}; a server prunes by itself, every [log] prune_every"
            ) from None
    click.echo(f"{deleted} events deleted")


@log.command("new-epoch")
@config_option
def new_epoch(config_path: Path | None) -> None:
    """Make another log of it for all devices, as after a restored copy; print its epoch."""
    with write_access(_settings(config_path, "new-epoch").log.path) as connection:
        epoch = replace_epoch(connection)
    click.echo(epoch)


@log.command()
@click.argument("file", default=STDOUT)
@config_option
def export(file: str, config_path: Path | None) -> None:
    """Write the log as NDJSON to FILE, or to the standard output."""
    engine = engine_of(_settings(config_path))
    if file == STDOUT:
        # A bar between the lines would be of no use.
        with shown(quiet=sys.stdout.isatty()) as progress:
            engine.export(_write_out, progress)
        return
    destination = Path(file)
    with (
        staged(destination, mode=engine.mode) as beside,
        beside.open("wb") as output,
        shown() as progress,
    ):
        made = engine.export(output.write, progress)
    click.echo(f"{made.events} events, up to seq {made.head}, in {destination}")


@log.command("import")
@click.argument("file", type=click.File("rb"), default="-")
@config_option
def import_(file: BinaryIO, config_path: Path | None) -> None:
    """Read an export from FILE, or from the standard input, into a new or empty log."""
    engine = engine_of(_settings(config_path))
    with shown() as progress:
        made = engine.import_(file, progress)
    click.echo(f"{made.events} events, up to seq {made.head}, under the new epoch {made.epoch}")
    if made.beyond:
        click.echo(f"{made.beyond} more were beyond the log's limits and are gone")


def _settings(config_path: Path | None, only_sqlite: str | None = None) -> Settings:
    """Load the configuration, for a command that may be for SQLite only."""
    settings = load_settings(config_path)
    if only_sqlite is not None:
        require_sqlite(settings, only_sqlite)
    # What a log's own modules say is for stderr.
    logs.configure(level=settings.logging.level, log_format=settings.logging.format)
    return settings


def _figures(stats: Mapping[str, object]) -> dict[str, object]:
    times = ("oldestCommit", "newestCommit", "backupMade")
    return {name: _time(value) if name in times else value for name, value in stats.items()}


def _time(milliseconds: object) -> str | None:
    if milliseconds is None:
        return None
    if not (isinstance(milliseconds, int) and 0 <= milliseconds <= MAX_MILLISECONDS):
        # Of a log that `check` has more to say about.
        return f"unreadable ({milliseconds})"
    return from_epoch(milliseconds / 1000)


def _write_out(data: bytes) -> None:
    """Write all of it to stdout, with nothing kept back that could fail at the exit."""
    left = memoryview(data)
    with explained("standard output"):
        while left:
            left = left[os.write(sys.stdout.fileno(), left) :]
