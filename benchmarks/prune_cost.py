#!/usr/bin/env python3
"""Measure what emitters notice of pruning.

Makes a log with so many old rows, and emits to a server on it at a steady rate, in rounds
that alternate: without pruning, and while all that is old is pruned away. Prints percentiles
of the time from a request to its answer, how fast rows went, and the ratios.
"""

import asyncio
import json
import os
import random
import secrets
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import click
from rich.console import Console
from rich.table import Table

from archibald_rt.eventlog.schema import open_writer

USERS = 10_000
"""How many users the rows belong to."""

FILL = """
WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last)
INSERT INTO events (user, seq, instant, tail)
SELECT CAST('user-' || (i * 7919 % :users) AS BLOB), i, 0,
       CAST('"type":"JOB_COMPLETED","payload":{"jobId":"' || i || '","operation":"submit-order"},'
            || '"timestamp":"2026-01-01T00:00:00.000Z"}' AS BLOB)
FROM n
"""
FILL_COMMITS = """
WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last)
INSERT INTO commits (seq, user, committed)
SELECT i, CAST('user-' || (i * 7919 % :users) AS BLOB), 0 FROM n
"""
BATCH = 10_000


@dataclass
class Round:
    """What one round showed; times in seconds."""

    latencies: list[float] = field(default_factory=list)
    pruned: int = 0
    lasted: float = 0.0


def fill(path: Path, rows: int) -> None:
    """Make a log with so many rows that were committed long ago."""
    with closing(open_writer(path)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -400000")
        for first in range(1, rows + 1, BATCH):
            values = {"first": first, "last": min(rows, first + BATCH - 1), "users": USERS}
            connection.execute("BEGIN")
            connection.execute(FILL, values)
            connection.execute(FILL_COMMITS, values)
            connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@contextmanager
def serving(path: Path, emit_token: str, *, prune: bool) -> Iterator[tuple[str, int]]:
    """Run a server on the log; yields the host and port of its internal listener."""
    settings = {
        "SERVER_PORT": "0",
        "INTERNAL_PORT": "0",
        "INTERNAL_EMIT_TOKENS": emit_token,
        "AUTH_JWT_SECRET": secrets.token_urlsafe(32),
        "LOG_PATH": str(path),
        "LOG_MAX_EVENTS_PER_USER": "0",
        "LOG_MAX_SIZE": "0",
        "LOG_MAX_AGE": "1h",
        "LOG_PRUNE_EVERY": "60s" if prune else "0s",
        "LOGGING_FORMAT": "json",
    }
    environment = os.environ | {f"ARCHIBALD_RT_{name}": text for name, text in settings.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "archibald_rt", "serve"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            for line in process.stderr or ():
                entry = json.loads(line)
                if entry["event"] == "listening":
                    break
            else:
                raise SystemExit("the server did not start")
            at = urlsplit(entry["internal"])
            yield at.hostname or "", at.port or 0
        finally:
            process.kill()


class Emitter:
    """One connection of a back end."""

    def __init__(self, emit_token: str) -> None:
        self._token = emit_token

    async def connect(self, host: str, port: int) -> None:
        """Connect to the internal listener."""
        self._reader, self._writer = await asyncio.open_connection(host, port)

    async def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Send a request and return the answer's body."""
        self._writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: l\r\nAuthorization: Bearer {self._token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"refused: {head.decode()}")
        length = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        return await self._reader.readexactly(length)

    async def emit(self) -> float:
        """Emit one durable event; returns how many seconds the answer took."""
        user = random.randrange(USERS)  # noqa: S311 - spreading load
        body = b'{"userId":"user-%d","type":"N","payload":{"jobId":"7"}}' % user
        began = time.perf_counter()
        await self.request("POST", "/internal/emit", body)
        return time.perf_counter() - began


async def measure(at: tuple[str, int], emit_token: str, seconds: float, rate: float) -> Round:
    """Emit for so long, so many a second, each when it is due."""
    emitters = [Emitter(emit_token) for _ in range(8)]
    for emitter in emitters:
        await emitter.connect(*at)
    result = Round()
    began = time.perf_counter()

    async def work(number: int) -> None:
        turn = number
        while (due := began + turn / rate) < began + seconds:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            result.latencies.append(await emitters[number].emit())
            turn += len(emitters)

    await asyncio.gather(*(work(number) for number in range(len(emitters))))
    stats = json.loads(await emitters[0].request("GET", "/internal/stats"))
    result.pruned = stats["log"]["pruned"]
    result.lasted = time.perf_counter() - began
    return result


def percentile(values: list[float], share: float) -> float:
    """Return the value that so large a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def left(path: Path) -> int:
    """Return how many rows the log has."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        count: int = connection.execute("SELECT count(*) FROM commits").fetchone()[0]
    return count


@click.command()
@click.option("--rows", default=10_000_000, show_default=True)
@click.option("--seconds", default=20.0, show_default=True, help="How long a round lasts.")
@click.option("--rate", default=200.0, show_default=True, help="Emissions in a second.")
@click.option("--rounds", default=4, show_default=True, help="How many of each kind.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where the log is made.")
@click.option(
    "--log",
    "made_before",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A log that an earlier run kept: it is copied, not changed.",
)
@click.option(
    "--keep", type=click.Path(path_type=Path), help="Where to keep the log for later runs."
)
def main(
    rows: int,
    seconds: float,
    rate: float,
    rounds: int,
    folder: Path | None,
    made_before: Path | None,
    keep: Path | None,
) -> None:
    """Measure, and print a table."""
    emit_token = secrets.token_urlsafe(32)
    kinds: dict[bool, list[Round]] = {False: [], True: []}
    console = Console()
    with tempfile.TemporaryDirectory(dir=folder) as made:
        path = Path(made) / "events.db"
        if made_before is not None:
            shutil.copyfile(made_before, path)
        else:
            console.print(f"making a log of {rows:,} rows")
            fill(path, rows)
        if keep is not None:
            shutil.copyfile(path, keep)
        # Or the first rounds would share the disk with what made the log.
        os.sync()
        for _ in range(rounds):
            for prune in (False, True):
                with serving(path, emit_token, prune=prune) as at:
                    kinds[prune].append(asyncio.run(measure(at, emit_token, seconds, rate)))
        remaining = left(path)
    table = Table("pruning", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "rows/s")
    medians: dict[bool, float] = {}
    for prune, each in kinds.items():
        medians[prune] = statistics.median(percentile(r.latencies, 0.99) for r in each)
        figures = [
            statistics.median(percentile(r.latencies, share) for r in each) * 1000
            for share in (0.5, 0.99, 0.999, 1.0)
        ]
        speed = sum(r.pruned for r in each) / sum(r.lasted for r in each)
        table.add_row("on" if prune else "off", *(f"{f:.2f}" for f in figures), f"{speed:,.0f}")
    console.print(table)
    console.print(f"p99 with pruning / without: {medians[True] / medians[False]:.2f}")
    console.print(f"rows left: {remaining:,}")


if __name__ == "__main__":
    main()
