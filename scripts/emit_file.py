#!/usr/bin/env python3
"""Emit a file of events: NDJSON, one emission a line, - for stdin.

Lines are posted in batches. Each batch is stored as a whole or not at all; when one is refused,
those before it are stored and the script ends with 1. Lines that have a "key" can be sent again.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import click
from rich.console import Console
from rich.progress import Progress

from _http import Emitter, RefusedError, connection_options, run

# The server takes 10,000 emissions a request, and by default 16 MiB.
_MOST_EVENTS = 10_000
_MOST_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class Batch:
    """Lines of a file, with the number of each; ``size`` is in bytes."""

    lines: tuple[bytes, ...]
    numbers: tuple[int, ...]

    @property
    def size(self) -> int:
        """The bytes of its lines."""
        return sum(map(len, self.lines))


def batches(file: BinaryIO, most_events: int) -> Iterator[Batch]:
    """Cut a file into batches, empty lines left out."""
    lines: list[bytes] = []
    numbers: list[int] = []
    size = 0
    for number, line in enumerate(file, 1):
        emission = line.strip()
        if not emission:
            continue
        if lines and (len(lines) == most_events or size + len(emission) > _MOST_BYTES):
            yield Batch(tuple(lines), tuple(numbers))
            lines, numbers, size = [], [], 0
        lines.append(emission + b"\n")
        numbers.append(number)
        size += len(emission) + 1
    if lines:
        yield Batch(tuple(lines), tuple(numbers))


@click.command(help=__doc__)
@connection_options
@click.option(
    "--batch-size",
    type=click.IntRange(1, _MOST_EVENTS),
    default=500,
    show_default=True,
    help="Events a request.",
)
@click.argument("file", type=click.File("rb"))
def main(url: str, token: str, file: BinaryIO, batch_size: int) -> None:
    """Emit a file."""
    events = duplicates = 0
    total = _size(file)
    emitter = Emitter(url, token)
    with Progress(console=Console(stderr=True)) as display:
        bar = display.add_task("emitting", total=total)
        for batch in batches(file, batch_size):
            try:
                answer = emitter.post(
                    "/internal/emit", b"".join(batch.lines), "application/x-ndjson"
                )
            except RefusedError as error:
                where = f"lines {batch.numbers[0]}-{batch.numbers[-1]}"
                line = _line_of(error.field, batch)
                if line:
                    where += f", line {line}"
                raise RefusedError(f"{where}: {error.message}; {events} emitted before") from error
            results = answer.get("results", [])
            events += len(results)
            duplicates += sum(bool(result.get("duplicate")) for result in results)
            display.update(bar, advance=batch.size, description=f"{events} events")
        display.update(bar, total=total or 1, completed=total or 1)
    click.echo(f"{events} events emitted, {duplicates} of them duplicates")


def _size(file: BinaryIO) -> int | None:
    """Give how many bytes are left to read; None for what can't tell, such as a pipe."""
    if not file.seekable():
        return None
    start = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(start)
    return end - start


def _line_of(field: str, batch: Batch) -> int | None:
    """Give the number of the line that a problem's field, such as ``[3].type``, speaks of."""
    match = re.match(r"\[(\d+)\]", field)
    index = int(match[1]) if match else len(batch.numbers)
    return batch.numbers[index] if index < len(batch.numbers) else None


if __name__ == "__main__":
    run(main)
