"""``archibald-rt log``: what an operator does with the log besides serving it."""

import os
import signal
import sys
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from archibald_rt import logs
from archibald_rt.cli.options import config_option, load_settings
from archibald_rt.cli.progress import shown
from archibald_rt.errors import ArchibaldError, ConfigError, LogInUseError
from archibald_rt.eventlog.access import permissions, write_access
from archibald_rt.eventlog.checking import check as check_log
from archibald_rt.eventlog.copying import back_up
from archibald_rt.eventlog.epochs import replace_epoch
from archibald_rt.eventlog.exporting import export as export_log
from archibald_rt.eventlog.importing import import_ as import_log
from archibald_rt.eventlog.inspection import Stats, read_stats
from archibald_rt.eventlog.ndjson import MAX_MILLISECONDS
from archibald_rt.eventlog.offline import prune as prune_log
from archibald_rt.eventlog.staging import explained, staged
from archibald_rt.server import retention_of
from archibald_rt.settings import LogSettings
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
    nothing. prune, new-epoch and import need the server stopped.
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
    path = _settings(config_path).path
    with shown() as progress:
        progress("counting", 0, None)
        figures = _figures(path, read_stats(path))
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
    path = _settings(config_path).path
    with shown() as progress:
        faults = list(islice(check_log(path, full=full, progress=progress), MOST_FAULTS + 1))
    for fault in faults[:MOST_FAULTS]:
        click.echo(fault)
    if len(faults) > MOST_FAULTS:
        raise FaultyLogError(f"log {path}: has more than {MOST_FAULTS} faults")
    if faults:
        raise FaultyLogError(f"log {path}: is not good, faults: {len(faults)}")
    click.echo("the log is good")


@log.command()
@click.argument("destination", metavar="DEST", type=click.Path(path_type=Path))
@config_option
def backup(destination: Path, config_path: Path | None) -> None:
    """Copy the log to the file DEST, beside a running server or without one."""
    path = _settings(config_path).path
    with shown() as progress:
        made = back_up(path, destination, progress=progress)
    click.echo(f"{made.events} events, up to seq {made.head}, in {destination}")


@log.command()
@config_option
def prune(config_path: Path | None) -> None:
    """Delete what is beyond the configured limits, from a log that no server runs on."""
    limits = _settings(config_path)
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
    with write_access(_settings(config_path).path) as connection:
        epoch = replace_epoch(connection)
    click.echo(epoch)


@log.command()
@click.argument("file", default=STDOUT)
@config_option
def export(file: str, config_path: Path | None) -> None:
    """Write the log as NDJSON to FILE, or to the standard output."""
    path = _settings(config_path).path
    if file == STDOUT:
        # A bar between the lines would be of no use.
        with shown(quiet=sys.stdout.isatty()) as progress:
            export_log(path, _write_out, progress=progress)
        return
    destination = Path(file)
    with (
        staged(destination, mode=permissions(path)) as beside,
        beside.open("wb") as output,
        shown() as progress,
    ):
        made = export_log(path, output.write, progress=progress)
    click.echo(f"{made.events} events, up to seq {made.head}, in {destination}")


@log.command("import")
@click.argument("file", type=click.File("rb"), default="-")
@config_option
def import_(file: BinaryIO, config_path: Path | None) -> None:
    """Read an export from FILE, or from the standard input, into a new or empty log."""
    path = _settings(config_path).path
    with shown() as progress:
        made = import_log(path, file, progress=progress)
    click.echo(f"{made.events} events, up to seq {made.head}, under the new epoch {made.epoch}")


def _settings(config_path: Path | None) -> LogSettings:
    settings = load_settings(config_path)
    if settings.log.engine != "sqlite":
        raise ConfigError(
            f"[log] engine: these commands are for sqlite, not for {settings.log.engine}"
        )
    # What a log's own modules say is for stderr.
    logs.configure(level=settings.logging.level, log_format=settings.logging.format)
    return settings.log


def _figures(path: Path, stats: Stats) -> dict[str, object]:
    figures = {"path": str(path), **msgspec.to_builtins(stats)}
    for name in ("oldestCommit", "newestCommit", "backupMade"):
        figures[name] = _time(figures[name])
    return figures


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
