"""Logs in streams as tests make, move and compare them, beside files."""

import asyncio
import itertools
import json
from bisect import bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import nats as client

from archibald_rt.errors import LogUnavailableError
from archibald_rt.eventlog import exporting as of_files
from archibald_rt.eventlog.nats import exporting as of_streams
from archibald_rt.eventlog.nats.jet import Jet
from archibald_rt.eventlog.nats.opening import open_nats
from archibald_rt.eventlog.nats.remote import Where
from archibald_rt.events import Emission
from engines import appended
from logfiles import tables
from natsservers import NatsServer

_T = TypeVar("_T")
_names = itertools.count()


def somewhere(server: NatsServer) -> Where:
    """Return a place where no log is."""
    return Where([server.url], f"S{next(_names)}")


def asked(where: Where, work: Callable[[Jet], Awaitable[_T]]) -> _T:
    """Do something to JetStream as an operator would, beside the log."""

    async def connected() -> _T:
        connection = await client.connect(where.servers[0])
        try:
            return await work(Jet(connection))
        finally:
            await connection.close()

    return asyncio.run(connected())


@asynccontextmanager
async def jet_of(server: NatsServer) -> AsyncIterator[Jet]:
    """Connect as an operator would, beside the log."""
    connection = await client.connect(server.url)
    try:
        yield Jet(connection)
    finally:
        await connection.close()


@asynccontextmanager
async def held_back(jet: Jet, stream: str) -> AsyncIterator[None]:
    """Have JetStream send nothing of a stream to those who follow it by now, for a block."""
    listed = await jet.ask(f"CONSUMER.NAMES.{stream}")
    assert listed is not None
    assert listed["consumers"]
    for name in listed["consumers"]:
        await jet.ask(f"CONSUMER.PAUSE.{stream}.{name}", {"pause_until": "2100-01-01T00:00:00Z"})
    try:
        yield
    finally:
        for name in listed["consumers"]:
            # Who was asked for anew is gone.
            with suppress(LogUnavailableError):
                await jet.ask(f"CONSUMER.PAUSE.{stream}.{name}", {})


def streams(where: Where) -> dict[str, dict[str, Any]]:
    """Return the streams that belong to a log, with what JetStream says of them."""

    async def work(jet: Jet) -> dict[str, dict[str, Any]]:
        found = {
            name: await jet.ask(f"STREAM.INFO.{name}")
            for name in (where.stream, f"KV_{where.stream}_state")
        }
        # Without what changes by itself.
        return {
            name: {
                "config": info["config"],
                "created": info["created"],
                "last": info["state"]["last_seq"],
                "messages": info["state"]["messages"],
            }
            for name, info in found.items()
            if info is not None
        }

    return asked(where, work)


@contextmanager
def gone_after(where: Where) -> Iterator[None]:
    """Delete a log at the end of a block: a server holds only so many."""
    try:
        yield
    finally:

        async def work(jet: Jet) -> None:
            for name in (where.stream, f"KV_{where.stream}_state"):
                await jet.ask(f"STREAM.DELETE.{name}")

        asked(where, work)


def append(where: Where, *emissions: Emission) -> None:
    """Commit emissions as a server does, one by one."""

    async def work() -> None:
        async with open_nats(where.servers, where.stream) as log:
            for emission in emissions:
                await appended(log, [[emission]])

    asyncio.run(work())


def exported(log: Path | Where) -> bytes:
    """Return the export of a log."""
    pieces: list[bytes] = []
    if isinstance(log, Where):
        of_streams.export(log, pieces.append)
    else:
        of_files.export(log, pieces.append)
    return b"".join(pieces)


def about(export: bytes) -> dict[str, Any]:
    """Return what the first line of an export says."""
    found: dict[str, Any] = json.loads(export.split(b"\n")[0])
    return found


def events(export: bytes) -> list[bytes]:
    """Return the lines of the events of an export, byte by byte, but for their seqs."""
    return [line.partition(b",")[2] for line in export.split(b"\n")[1:]]


def ranked(path: Path) -> dict[str, list[Any]]:
    """Return what a log file holds, with the place of each event instead of its seq."""
    found = tables(path)
    seqs = sorted(row[0] for row in found["commits"])

    def place(seq: int) -> int:
        return bisect_right(seqs, seq)

    return {
        "commits": sorted((place(seq), *rest) for seq, *rest in found["commits"]),
        "events": sorted((user, place(seq), *rest) for user, seq, *rest in found["events"]),
        # Nobody stands before the first.
        "watermarks": [(user, place(seq)) for user, seq in found["watermarks"] if place(seq)],
        "revoked_users": found["revoked_users"],
        "revoked_tokens": found["revoked_tokens"],
    }
