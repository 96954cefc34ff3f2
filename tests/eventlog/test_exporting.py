"""An export of a log: ``eventlog.exporting``."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from archibald_rt.errors import LogCopyError
from archibald_rt.eventlog import exporting, schema
from archibald_rt.eventlog.access import Progress, unheard
from archibald_rt.eventlog.exporting import Export, export
from archibald_rt.revocations import TokenRevocation, UserRevocation
from logfiles import (
    append,
    append_by,
    by_hand,
    delete,
    downgrade,
    emission,
    folder,
    held,
    leave_hot,
    revoke,
    users,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
def small_steps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "STEP", 2)
        yield


def exported(path: Path, *, progress: Progress = unheard) -> list[dict[str, Any]]:
    pieces: list[bytes] = []
    export(path, pieces.append, progress=progress)
    data = b"".join(pieces)
    assert data.endswith(b"\n")
    return [json.loads(line) for line in data.split(b"\n")[:-1]]


def seqs(lines: list[dict[str, Any]]) -> list[int]:
    return [line["seq"] for line in lines[1:]]


def test_an_export_is_a_line_about_the_log_and_a_line_an_event(tmp_path: Path, path: Path) -> None:
    append(path, emission("u", '{"a":1.00}', key="k"), emission(None, "[1 ]"), committed=5)
    append(path, emission("v", '"\\u00e9"'), committed=6)
    before = folder(tmp_path)
    pieces: list[bytes] = []
    assert export(path, pieces.append) == Export(3, 3)
    with closing(schema.open_reader(path, immutable=True)) as connection:
        epoch = schema.read_epoch(connection)
    assert b"".join(pieces).decode() == (
        f'{{"format":"archibald-rt log","version":1,"epoch":"{epoch}","head":3,"last":3,'
        '"watermarks":[]}\n'
        '{"seq":1,"userId":"u","committed":5,"key":"k","type":"T","payload":{"a":1.00},'
        '"timestamp":"2026-01-01T00:00:00Z"}\n'
        '{"seq":2,"userId":null,"committed":5,"type":"T","payload":[1 ],'
        '"timestamp":"2026-01-01T00:00:00Z"}\n'
        '{"seq":3,"userId":"v","committed":6,"type":"T","payload":"\\u00e9",'
        '"timestamp":"2026-01-01T00:00:00Z"}\n'
    )
    assert folder(tmp_path) == before


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_events_come_in_the_order_of_their_seqs_however_many_steps_it_takes(
    path: Path, count: int
) -> None:
    names = [*"wvu", None, "u"][:count]
    append(path, *users(*names))
    heard: list[int] = []
    lines = exported(path, progress=lambda _what, done, _total: heard.append(done))
    assert [line["userId"] for line in lines[1:]] == names
    assert seqs(lines) == list(range(1, count + 1))
    assert heard == [*range(2, count, 2), count]


def test_a_step_of_large_events_ends_sooner(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "STEP_BYTES", 1000)
        append(path, *(emission("u", '"' + "x" * 600 + '"') for _ in range(5)))
        heard: list[int] = []
        lines = exported(path, progress=lambda _what, done, _total: heard.append(done))
    assert seqs(lines) == [1, 2, 3, 4, 5]
    assert heard == [2, 4, 5]


def test_a_log_without_events_is_a_line(path: Path) -> None:
    append(path)
    (line,) = exported(path)
    assert (line["head"], line["last"], line["watermarks"]) == (0, 0, [])
    append(path, emission("u"))
    with closing(schema.open_writer(path)) as connection:
        delete(connection, "u", 1)
    (line,) = exported(path)
    # Nobody can begin below the watermark of a log that holds nothing.
    assert (line["head"], line["last"], line["watermarks"]) == (1, 0, [])


def test_what_a_crash_left_is_exported(path: Path) -> None:
    append(path, emission("u"))
    leave_hot(path, *users("u", None, "v"))
    assert seqs(exported(path)) == [1, 2, 3, 4]


def test_watermarks_that_can_matter_are_told_and_no_others(path: Path) -> None:
    append(path, *users("old", "u", None, "u", "v", None))
    with closing(schema.open_writer(path)) as connection:
        delete(connection, "old", 1)
        delete(connection, "u", 4, commits=False)
        delete(connection, "", 3)
    lines = exported(path)
    assert seqs(lines) == [5, 6]
    assert lines[0]["watermarks"] == []
    append(path, emission("old"), emission("v"))
    with closing(schema.open_writer(path)) as connection:
        delete(connection, "v", 8)
        delete(connection, "old", 0)
    lines = exported(path)
    assert seqs(lines) == [6, 7]
    # A device that begins just below the broadcast at 6 has missed an event of v.
    assert lines[0]["watermarks"] == [["v", 8]]


# While the log goes on


def meanwhile(connection: sqlite3.Connection, *actions: str) -> Progress:
    """Do something to the log after each step."""
    left = list(actions)

    def do(*_told: object) -> None:
        # No step leaves a read transaction behind that would keep the WAL growing.
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        if left:
            action, *words = left.pop(0).split()
            if action == "append":
                append_by(connection, *users(*words))
            else:
                delete(connection, words[0], int(words[1]), commits=action == "delete")

    return do


@pytest.mark.usefixtures("small_steps")
def test_what_is_appended_meanwhile_is_not_exported(path: Path) -> None:
    append(path, *users(*"uvuvw"))
    with held(path) as connection:
        lines = exported(path, progress=meanwhile(connection, *["append u v w"] * 5))
    assert seqs(lines) == [1, 2, 3, 4, 5]
    assert lines[0]["head"] == lines[0]["last"] == 5


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("action", ["delete", "forget"])
def test_what_is_deleted_meanwhile_is_said_by_the_last_line(path: Path, action: str) -> None:
    append(path, *users(*"uvuvwwww"))
    with held(path) as connection:
        lines = exported(
            path, progress=meanwhile(connection, f"{action} u 3", f"{action} v 2", "append u")
        )
    assert seqs(lines) == [1, 2, 4, 5, 6, 7, 8]
    assert lines[0]["watermarks"] == []
    assert [line.get("watermarks") for line in lines[1:-1]] == [None] * 6
    assert lines[-1]["watermarks"] == [["u", 3], ["v", 2]]


@pytest.mark.usefixtures("small_steps")
def test_when_all_that_lies_ahead_is_deleted_the_last_line_before_says_so(path: Path) -> None:
    append(path, *users(*"uvwwww"))
    with held(path) as connection:
        lines = exported(path, progress=meanwhile(connection, "append w", "delete w 7"))
    assert seqs(lines) == [1, 2, 3, 4]
    # What came after the beginning is of no account to it, nor what became of that.
    assert lines[-1]["watermarks"] == [["w", 6]]
    append(path, *users(*"www"))
    with held(path) as connection:
        lines = exported(path, progress=meanwhile(connection, "delete w 10"))
    assert seqs(lines) == [1, 2]
    assert lines[0]["last"] == 10
    assert lines[-1]["watermarks"] == [["w", 10]]


@pytest.mark.usefixtures("small_steps")
def test_commits_of_events_that_were_deleted_before_do_no_harm(path: Path) -> None:
    append(path, *users(*"uuuuuvuuuu"))
    with held(path) as connection:
        delete(connection, "u", 9, commits=False)
    lines = exported(path)
    assert seqs(lines) == [6, 10]
    assert lines[0]["watermarks"] == [["u", 9]]
    with held(path) as connection:
        delete(connection, "u", 10, commits=False)
    lines = exported(path)
    assert seqs(lines) == [6]
    assert (lines[0]["head"], lines[0]["last"]) == (10, 6)


# What can't be


def test_an_event_that_is_missing_is_not_passed_over(path: Path) -> None:
    append(path, *users(*"uvw"))
    by_hand(path, "DELETE FROM events WHERE seq = 2")
    with pytest.raises(LogCopyError, match="event 2 is missing"):
        exported(path)


def test_an_id_that_is_no_text_is_named(path: Path) -> None:
    append(path, *users(*"uvw"))
    by_hand(
        path,
        "UPDATE events SET user = x'ff' WHERE seq = 2",
        "UPDATE commits SET user = x'ff' WHERE seq = 2",
    )
    with pytest.raises(LogCopyError, match="event 2: its user or key is not UTF-8"):
        exported(path)


def test_revocations_stand_in_the_line_about_the_log(path: Path) -> None:
    append(path, emission())
    revoke(path, UserRevocation("ann", -1), TokenRevocation('"t"', 1_767_225_600_123_456_789))
    about = exported(path)[0]
    assert about["revokedUsers"] == [["ann", "1969-12-31T23:59:59.999999999Z"]]
    assert about["revokedTokens"] == [['"t"', "2026-01-01T00:00:00.123456789Z"]]


def test_a_log_of_before_there_were_revocations_is_exported(path: Path) -> None:
    append(path, emission())
    with closing(schema.open_writer(path)) as connection:
        downgrade(connection)
    about, event = exported(path)
    assert "revokedUsers" not in about
    assert event["seq"] == 1
