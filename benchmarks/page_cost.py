#!/usr/bin/env python3
"""Measure what a page of a user's stream costs as the log grows.

Makes logs of 10^3 up to the given number of rows, in each of which one user has the same
thousand events among those of others, and reads pages of it, the logs in turn. Prints the
median CPU time and wall time of a page, and their ratios to the smallest log's.
"""

import asyncio
import random
import sqlite3
import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from archibald_rt.eventlog import EventLog
from archibald_rt.eventlog.schema import open_writer
from archibald_rt.eventlog.sqlite import open_sqlite

OWN = 1000
"""How many events the user has whose pages are read."""

PAGE = 100
"""How many events a page has."""

FILL = """
WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last)
INSERT INTO events (user, seq, instant, tail)
SELECT CAST(iif(i % :every = 0, 'reader', 'user-' || (i * 7919 % :users)) AS BLOB),
       i, 0,
       CAST('"type":"JOB_COMPLETED","payload":{"jobId":"' || i || '","operation":"submit-order"},'
            || '"timestamp":"2026-01-01T00:00:00.000Z"}' AS BLOB)
FROM n
"""
FILL_COMMITS = """
WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last)
INSERT INTO commits (seq, user, committed) SELECT i, x'', 0 FROM n
"""
BATCH = 10_000


def fill(path: Path, rows: int) -> None:
    """Make a log with so many rows."""
    connection = open_writer(path)
    try:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -400000")
        for first in range(1, rows + 1, BATCH):
            values = {
                "first": first,
                "last": min(rows, first + BATCH - 1),
                "every": rows // OWN,
                "users": max(1, rows // 1000),
            }
            connection.execute("BEGIN")
            connection.execute(FILL, values)
            connection.execute(FILL_COMMITS, values)
            connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()


async def read(log: EventLog, after: int) -> tuple[float, float]:
    """Read a page; returns its CPU time and wall time in seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    page = await log.page("reader", after=after, through=log.head, max_events=PAGE, max_bytes=2**20)
    spent = time.process_time() - cpu, time.perf_counter() - wall
    if len(page.events) != PAGE:
        raise SystemExit(f"a page of {len(page.events)} events, expected {PAGE}")
    return spent


async def measure(folder: Path, sizes: list[int], rounds: int) -> Table:
    """Read pages of all logs in turn and return the figures."""
    table = Table("rows", "CPU a page", "ratio", "wall a page", "ratio", title="Cost of a page")
    async with AsyncExitStack() as stack:
        logs = [
            await stack.enter_async_context(open_sqlite(folder / f"{size}.db")) for size in sizes
        ]
        spent: list[list[tuple[float, float]]] = [[] for _ in logs]
        for _ in range(rounds):
            for log, size, times in zip(logs, sizes, spent, strict=True):
                # Any place of the stream from which a whole page follows.
                after = random.randrange(OWN - PAGE) * (size // OWN)  # noqa: S311 - no secret
                times.append(await read(log, after))
        medians = [
            [statistics.median(each) for each in zip(*times, strict=True)] for times in spent
        ]
    for size, (cpu, wall) in zip(sizes, medians, strict=True):
        table.add_row(
            f"{size:,}",
            f"{cpu * 1e6:.0f} µs",
            f"{cpu / medians[0][0]:.2f}",
            f"{wall * 1e6:.0f} µs",
            f"{wall / medians[0][1]:.2f}",
        )
    return table


@click.command()
@click.option("--rows", default=10_000_000, show_default=True, help="Of the largest log.")
@click.option("--rounds", default=300, show_default=True, help="How many pages of each log.")
def main(rows: int, rounds: int) -> None:
    """Measure what a page of a user's stream costs as the log grows."""
    console = Console()
    sizes = [size for size in (10**3, 10**4, 10**5, 10**6, 10**7) if size <= rows]
    with tempfile.TemporaryDirectory() as name:
        for size in sizes:
            console.print(f"making a log of {size:,} rows", style="dim")
            fill(Path(name) / f"{size}.db", size)
        console.print(asyncio.run(measure(Path(name), sizes, rounds)))


if __name__ == "__main__":
    try:
        main()
    except sqlite3.Error as error:
        raise SystemExit(f"the log: {error}") from None
