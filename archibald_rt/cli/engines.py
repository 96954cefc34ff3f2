"""What the ``log`` commands do, for each engine that keeps a log."""

from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec

from archibald_rt.errors import ConfigError
from archibald_rt.eventlog import checking, exporting, importing, inspection
from archibald_rt.eventlog.access import Progress, permissions
from archibald_rt.server import retention_of
from archibald_rt.settings import Settings

_PRIVATE = 0o600

INSTEAD = {
    "prune": "the stream keeps to its limits by itself; `nats stream edit` changes them",
    "backup": "use `log export`, or `nats stream backup`",
    "new-epoch": "use `log export`, and `log import` into another stream: its epoch is new",
}
"""What there is with NATS in place of a command that it can't have."""


class Engine(Protocol):
    """A log as commands see it. All may raise `LogError`."""

    @property
    def name(self) -> str:
        """What errors call the log."""

    @property
    def mode(self) -> int:
        """The permissions that a copy of the log is to have."""

    def figures(self) -> Mapping[str, object]:
        """Return the log's figures by name; times are in milliseconds since 1970."""

    def check(self, *, full: bool, progress: Progress) -> Iterator[str]:
        """Yield what is wrong with the log, a line each."""

    def export(self, write: Callable[[bytes], object], progress: Progress) -> exporting.Export:
        """Write the log as lines."""

    def import_(self, file: BinaryIO, progress: Progress) -> importing.Import:
        """Read an export into a log that is new or empty."""


class SqliteFile:
    """The log in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = f"log {path}"

    @property
    def mode(self) -> int:
        """See `Engine.mode`: those of the file."""
        return permissions(self._path)

    def figures(self) -> Mapping[str, object]:
        """See `Engine.figures`."""
        stats = msgspec.to_builtins(inspection.read_stats(self._path))
        return {"path": str(self._path), **stats}

    def check(self, *, full: bool, progress: Progress) -> Iterator[str]:
        """See `Engine.check`."""
        return checking.check(self._path, full=full, progress=progress)

    def export(self, write: Callable[[bytes], object], progress: Progress) -> exporting.Export:
        """See `Engine.export`."""
        return exporting.export(self._path, write, progress=progress)

    def import_(self, file: BinaryIO, progress: Progress) -> importing.Import:
        """See `Engine.import_`."""
        return importing.import_(self._path, file, progress=progress)


class NatsStream:
    """The log in a stream of JetStream."""

    def __init__(self, settings: Settings) -> None:
        from archibald_rt.eventlog.nats.remote import (  # noqa: PLC0415 - who has SQLite needs no NATS
            Where,
        )

        nats = settings.nats
        self._where = Where(nats.servers, nats.stream, nats.credentials, nats.tls_ca)
        self._retention = retention_of(settings.log)
        self._replicas = nats.replicas
        self.name = f"stream {nats.stream}"
        self.mode = _PRIVATE

    def figures(self) -> Mapping[str, object]:
        """See `Engine.figures`."""
        from archibald_rt.eventlog.nats.inspection import read_stats  # noqa: PLC0415 - as above

        stats = msgspec.to_builtins(read_stats(self._where))
        return {"stream": self._where.stream, **stats}

    def check(self, *, full: bool, progress: Progress) -> Iterator[str]:  # noqa: ARG002 - there are no indexes
        """See `Engine.check`."""
        from archibald_rt.eventlog.nats.inspection import check  # noqa: PLC0415 - as above

        return check(self._where, progress=progress)

    def export(self, write: Callable[[bytes], object], progress: Progress) -> exporting.Export:
        """See `Engine.export`."""
        from archibald_rt.eventlog.nats.exporting import export  # noqa: PLC0415 - as above

        return export(self._where, write, progress=progress)

    def import_(self, file: BinaryIO, progress: Progress) -> importing.Import:
        """See `Engine.import_`."""
        from archibald_rt.eventlog.nats.importing import import_  # noqa: PLC0415 - as above

        return import_(
            self._where,
            file,
            retention=self._retention,
            replicas=self._replicas,
            progress=progress,
        )


def engine_of(settings: Settings) -> Engine:
    """Return the engine that is configured. Raises `ConfigError` for what it needs besides."""
    if settings.log.engine == "sqlite":
        return SqliteFile(settings.log.path)
    if find_spec("nats") is None:
        raise ConfigError(
            "[log] engine: nats needs a package more; pip install 'archibald_rt[nats]'"
        )
    return NatsStream(settings)


def require_sqlite(settings: Settings, command: str) -> None:
    """Raise `ConfigError`, which says what there is instead, for a log that is no file."""
    if settings.log.engine != "sqlite":
        raise ConfigError(
            f"[log] engine: {command} is not for {settings.log.engine}: {INSTEAD[command]}"
        )
