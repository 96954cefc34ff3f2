"""What stands in the log's place is no log, or a damaged one: the server says so and keeps off."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from faults.audit import audit, lost
from faults.load import load, told
from faults.report import Report
from faults.service import Service

PAGE = 4096


def text(path: Path) -> None:
    path.write_text("[server]\nport = 8080\n" * 100)


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(10 * PAGE))


def other_program(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("CREATE TABLE users (name TEXT)")
        other.execute("INSERT INTO users VALUES ('alice')")


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as log:
        log.execute("PRAGMA user_version = 99")


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // PAGE * PAGE)


def truncated_in_a_page(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 + 100)


def overwritten(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def header(path: Path) -> None:
    overwritten(path, 16, os.urandom(84))


def last_page(path: Path) -> None:
    """Zero the page that the server reads first: the newest of the commits."""
    with closing(sqlite3.connect(path)) as log:
        (root,) = log.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'commits'"
        ).fetchone()
    overwritten(path, (root - 1) * PAGE, bytes(PAGE))


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def emptied(path: Path) -> None:
    """Lose the file, but not the write-ahead log beside it."""
    wal = wal_of(path)
    with closing(sqlite3.connect(path)) as log:
        log.execute("INSERT INTO meta VALUES ('some', 'more')")
        log.commit()
        kept = wal.read_bytes()
    os.truncate(path, 0)
    wal.write_bytes(kept)


def gone(path: Path) -> None:
    emptied(path)
    path.unlink()


def wal_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


KINDS: list[tuple[str, Callable[[Path], None], str]] = [
    ("a text", text, "not a SQLite file"),
    ("garbage", garbage, "not a SQLite file"),
    ("another program's SQLite file", other_program, "of another program"),
    ("a newer version's log", newer, "version 99"),
    ("half of it", truncated, "malformed"),
    ("half of it and a piece of a page", truncated_in_a_page, "malformed"),
    ("a damaged header", header, ""),
    ("a zeroed page where the newest commits are", last_page, "malformed"),
    ("a folder", folder, "Is a directory"),
    ("0 bytes beside a write-ahead log", emptied, "holds what was committed last"),
    ("nothing but a write-ahead log", gone, "holds what was committed last"),
]


def image_of(path: Path) -> object:
    """Return what there is in the log's place; beside an intact file its WAL is as good as it."""
    if path.is_dir():
        return sorted(path.iterdir())
    if path.exists() and path.stat().st_size:
        return path.read_bytes()
    return path.exists(), wal_of(path).read_bytes()


@pytest.mark.fault("the file is no log, or damaged, at the start")
@pytest.mark.gen_test
async def test_what_is_no_log_is_told_in_one_line_and_left_as_it_is(
    tmp_path: Path, report: Report
) -> None:
    said, changed = [], 0
    async with Service(tmp_path) as service:
        await service.start()
        async with load(service) as work:
            await work.more(300)
            await work.finish()
        await service.stop()
        wrong = audit(service.log, work)
        good = shutil.copyfile(service.log, tmp_path / "good.db")
        for number, (what, spoil, expected) in enumerate(KINDS):
            service.log = tmp_path / f"spoilt-{number}.db"
            shutil.copyfile(good, service.log)
            spoil(service.log)
            before = image_of(service.log)
            line = await service.refusal()
            assert expected in line
            assert ";" in line, "it says what to do as well"
            said.append(f"{what}: “{line.partition(';')[0]}”")
            changed += image_of(service.log) != before
        # A file of no bytes is as good as none: a crash can leave it at the first start.
        service.log = tmp_path / "empty.db"
        service.log.touch()
        await service.start()
        device = await told(service, work.watchers[0])
        assert [reason for *_, reason in device.gaps] == ["epoch"]
        await service.stop()
    report.note(
        "the file is no log, or damaged, at the start",
        how="a file of each kind in the log's place",
        tried=f"{len(KINDS)} starts, and one on an empty file, which begins a new log",
        checked=(
            "exit code 1, one line with the file, the cause and what to do; no byte changed; "
            "devices are told of the new log"
        ),
        lost=lost(wrong) + changed,
        figures="; ".join(said),
    )
