"""An import of an exported log: ``eventlog.importing``."""

import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arbitrary import ITEMS, emitted
from archibald_rt.errors import LogCopyError, LogInUseError, LogOpenError
from archibald_rt.eventlog import exported as exported_lines
from archibald_rt.eventlog import exporting, files, schema
from archibald_rt.eventlog.exporting import export
from archibald_rt.eventlog.importing import import_
from archibald_rt.eventlog.sqlite import open_sqlite
from archibald_rt.revocations import TokenRevocation, UserRevocation
from logfiles import (
    append,
    by_hand,
    delete,
    emission,
    folder,
    held,
    leave_hot,
    revoke,
    tables,
    users,
)

NOWHERE = os.open(os.devnull, os.O_RDONLY)
STAMP = "2026-01-01T00:00:00Z"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    (tmp_path / "other").mkdir()
    return tmp_path / "other" / "events.db"


class Input(io.BytesIO):
    """An export that is read from memory."""

    name = "the test's"

    def fileno(self) -> int:
        """Stand for something without a size."""
        return NOWHERE


def exported(path: Path) -> bytes:
    pieces: list[bytes] = []
    export(path, pieces.append)
    return b"".join(pieces)


def header(**fields: Any) -> dict[str, Any]:
    about = {"format": "archibald-rt log", "version": 1, "epoch": "e", "head": 9, "last": 9}
    return {**about, "watermarks": [], **fields}


def event(seq: int, user: str | None = "u", **fields: Any) -> dict[str, Any]:
    where = {"seq": seq, "userId": user, "committed": 5}
    return {**where, "type": "T", "payload": seq, "timestamp": STAMP, **fields}


def lines(*members: dict[str, Any] | bytes) -> Input:
    return Input(
        b"".join(
            (each if isinstance(each, bytes) else json.dumps(each).encode()) + b"\n"
            for each in members
        )
    )


def refusal(path: Path, file: BinaryIO) -> str:
    """Import what is no export; returns the line that says so, with nothing changed."""
    before = folder(path.parent)
    with pytest.raises(LogCopyError) as caught:
        import_(path, file)
    after = folder(path.parent)
    assert set(after) == {*before, "events.db.lock"}
    return str(caught.value)


# What comes back


def test_a_log_comes_back_as_it_was_under_a_new_epoch(path: Path, other: Path) -> None:
    append(path, emission("u", '{"a":1.00}', key="k"), emission(None, key="k"), committed=5)
    append(path, emission("w\u00e9"), *users(*"uuv"), emission("v", key="x"), committed=7)
    with closing(schema.open_writer(path)) as connection:
        delete(connection, "u", 4)
        delete(connection, "v", 6)
    revoke(path, UserRevocation("u", -(2**63)), UserRevocation("v", 2**63 - 1))
    revoke(path, TokenRevocation("\n\u00e9", 1_767_225_600_123_456_789))
    first = exported(path)
    made = import_(other, Input(first))
    found, expected = tables(other), tables(path)
    assert (made.events, made.head) == (4, 7)
    assert found["meta"] == [("epoch", made.epoch)] != expected["meta"]
    assert {**found, "meta": []} == {**expected, "meta": []}
    second = exported(other)
    assert second.split(b"\n")[1:] == first.split(b"\n")[1:]
    about = json.loads(first.split(b"\n")[0])
    assert json.loads(second.split(b"\n")[0]) == {**about, "epoch": made.epoch}


@pytest.mark.gen_test
async def test_a_server_goes_on_where_the_log_was(path: Path, other: Path) -> None:
    append(path, emission("u", key="k"), *users(*"uu"))
    with closing(schema.open_writer(path)) as connection:
        delete(connection, "u", 1)
        delete(connection, "u", 3)
    append(path, emission("u", key="k2"), emission(None))
    made = import_(other, Input(exported(path)))
    async with open_sqlite(other) as log:
        assert (log.epoch, log.head) == (made.epoch, 5)
        page = await log.page("u", after=0, through=5, max_events=10, max_bytes=2**20)
        assert ([each.seq for each in page.events], page.lost) == ([4, 5], 0)
        (stored,) = await log.append([[emission("u", key="k2"), emission("u", key="k")]])
        assert isinstance(stored, list)
        assert [(each.seq, each.duplicate) for each in stored] == [(4, True), (6, False)]


def test_what_was_deleted_while_it_was_exported_is_gone_and_known_to_be(
    path: Path, other: Path
) -> None:
    append(path, *users(*"uvuvwwww"))
    pieces: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch, held(path) as connection:
        patch.setattr(exporting, "STEP", 2)
        export(path, pieces.append, progress=lambda *_told: delete(connection, "u", 3))
    import_(other, Input(b"".join(pieces)))
    found, expected = tables(other), tables(path)
    assert {**found, "meta": []} == {**expected, "meta": []}


def test_an_export_without_events_is_imported(path: Path, other: Path) -> None:
    import_(path, lines(header(head=9, last=0)))
    assert tables(path)["sqlite_sequence"] == [("commits", 9)]
    import_(other, lines(header(head=0, last=0)))
    append(other, emission())
    assert [row[0] for row in tables(other)["commits"]] == [1]


def test_a_large_event_is_imported_and_a_last_line_may_do_without_an_end(path: Path) -> None:
    file = lines(header(last=1), event(1, payload="x" * 5_000_000))
    assert import_(path, Input(file.getvalue()[:-1])).events == 1
    assert len(tables(path)["events"][0][4]) > 5_000_000


def test_progress_is_told_in_bytes_of_the_file(tmp_path: Path, path: Path) -> None:
    file = tmp_path / "export"
    file.write_bytes(lines(header(last=3), *map(event, (1, 2, 3))).getvalue())
    told: list[tuple[str, int, int | None]] = []
    with pytest.MonkeyPatch.context() as patch, file.open("rb") as opened:
        patch.setattr(exported_lines, "HEARD_EVERY", 2)
        import_(path, opened, progress=lambda *each: told.append(each))
    size = file.stat().st_size
    assert [each[2] for each in told] == [size, size]
    assert told[-1][1] == size


@settings(max_examples=60)
@given(st.lists(ITEMS, max_size=8))
def test_whatever_can_be_emitted_comes_through_an_export_and_an_import_byte_by_byte(
    items: list[dict[str, Any]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        first, second = Path(name, "first.db"), Path(name, "second.db")
        append(first, *emitted(items))
        import_(second, Input(exported(first)))
        found, expected = tables(second), tables(first)
        assert {**found, "meta": []} == {**expected, "meta": []}
        assert exported(second).split(b"\n")[1:] == exported(first).split(b"\n")[1:]


# What doesn't


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (lines(), "the input is empty: expected the line about a log"),
        (lines(b"PK\x03\x04 \xff"), "line 1: unreadable: not UTF-8, byte 5 is wrong"),
        (lines(event(1)), "line 1: seq: Object contains unknown field seq"),
        (lines(header(version=2)), "line 1: version: expected 1; a later release wrote it"),
        (lines(header(), header()), "line 2: format: Object contains unknown field format"),
        (lines(header(), event(1), b"", event(9)), "line 3: unreadable: expected JSON, it is"),
        (lines(header(), event(2), event(2)), "line 3: seq: expected one above 2, the line befo"),
        (lines(header(), event(2), event(1)), "line 3: seq: expected one above 2, the line befo"),
        (lines(header(last=4), event(5)), "line 2: seq: expected none above 4, the last as line 1"),
        (lines(header(last=0), event(5)), "line 2: seq: expected none above 0, the last as line 1"),
        (lines(header(), event(10)), "line 2: seq: expected one not above 9, the log's head"),
        (
            lines(header(watermarks=[["u", 3]]), event(3)),
            "line 2: seq: expected one above the user's watermark in line 1",
        ),
        (
            lines(header(), event(1, committed=7), event(2, committed=6)),
            "line 3: committed: expected none before 7, the line before's",
        ),
        (
            lines(header(), event(1, key="k"), event(2, "v", key="k"), event(9, key="k")),
            "line 4: key: this user's event 1 has the same",
        ),
        (
            lines(header(revokedUsers=[["u", "2026-01-01T00:00:00Z"], ["", STAMP]])),
            "line 1: revokedUsers[1]: expected 1 to 256 characters",
        ),
        (
            lines(header(revokedUsers=[["u", "now"]])),
            "line 1: revokedUsers[0]: expected an RFC 3339 timestamp",
        ),
        (
            lines(header(revokedTokens=[["", STAMP]])),
            "line 1: revokedTokens[0][0]: Expected str of length >= 1",
        ),
        (lines(header(revokedTokens=[["t", ""]])), "line 1: revokedTokens[0]: expected an RFC 33"),
        (lines(header(), event(1, "x" * 257)), "line 2: userId: expected 1 to 256 characters"),
        (lines(header(), event(1, type="rt.x")), "line 2: type: types that begin with rt. are"),
        (lines(header(), event(1), event(8)), "the input is cut off after line 3: "),
        (lines(header()), "the input is cut off after line 1: "),
        (
            lines(header(), event(1, watermarks=[["u", 1]]), event(9)),
            "line 3: watermarks: only the last line has them, not 2",
        ),
    ],
)
@pytest.mark.parametrize("exists", [False, True], ids=["new", "empty"])
def test_an_import_is_whole_or_nothing_and_says_where_it_is_wrong(
    path: Path, file: Input, said: str, *, exists: bool
) -> None:
    if exists:
        append(path)
    assert refusal(path, Input(file.getvalue())).startswith(said)


def test_a_line_without_an_end_is_given_up(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exported_lines, "MAX_LINE", 1000)
        long = lines(header(last=1), event(1, payload="x" * 1000))
        assert refusal(path, long) == "line 2: longer than 1000 bytes, which no log can hold"
        with Path("/dev/zero").open("rb") as endless:
            assert "line 1: longer than 1000 bytes" in refusal(path, endless)


def test_a_file_that_can_not_be_read_is_named(path: Path) -> None:
    with Path("/proc/self/mem").open("rb") as file:
        assert refusal(path, file) == "/proc/self/mem: Input/output error"


def test_a_log_that_holds_something_is_not_imported_into(tmp_path: Path, path: Path) -> None:
    append(path, emission("u"))
    before = folder(tmp_path)
    with pytest.raises(LogOpenError, match="is not empty"):
        import_(path, lines(header(last=0)))
    assert folder(tmp_path) == {**before, "events.db.lock": b""}
    with closing(schema.open_writer(path)) as connection:
        delete(connection, "u", 1)
    with pytest.raises(LogOpenError, match="is not empty"):
        import_(path, lines(header(last=0)))


def test_what_a_crash_left_is_something(path: Path) -> None:
    append(path)
    leave_hot(path, emission("u"))
    with pytest.raises(LogOpenError, match="is not empty"):
        import_(path, lines(header(last=0)))
    assert len(tables(path)["events"]) == 1


def test_what_is_no_log_is_not_imported_into(path: Path) -> None:
    by_hand(path, "CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(LogOpenError, match="another program"):
        import_(path, lines(header(last=0)))
    assert path.read_bytes() == before


@pytest.mark.parametrize("left", [b"", None], ids=["a file without a byte", "an empty log"])
def test_an_empty_log_is_replaced_and_keeps_its_permissions(path: Path, left: bytes | None) -> None:
    if left is None:
        append(path)
    else:
        path.write_bytes(left)
    path.chmod(0o640)
    # As a reader leaves them that was there when the server stopped.
    for companion in (files.wal_path(path), files.shm_path(path)):
        companion.touch()
    assert import_(path, lines(header(last=1), event(1))).events == 1
    assert path.stat().st_mode & 0o777 == 0o640
    assert set(folder(path.parent)) == {"events.db", "events.db.lock"}


def test_a_log_behind_a_link_is_made_there(tmp_path: Path, path: Path) -> None:
    append(path)
    link = tmp_path / "link.db"
    link.symlink_to(path)
    import_(link, lines(header(last=1), event(1)))
    assert link.is_symlink()
    assert len(tables(path)["events"]) == 1


def test_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "var" / "lib" / "events.db"
    assert import_(path, lines(header(last=1), event(1))).head == 9


def test_a_log_that_is_in_use_is_not_imported_into(path: Path) -> None:
    append(path)
    with held(path), pytest.raises(LogInUseError):
        import_(path, lines(header(last=1), event(1)))
    assert tables(path)["events"] == []


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    assert [each for each in tmp_path.rglob("*") if "partial" in each.name] == []


def test_a_log_that_holds_only_a_revocation_is_not_imported_into(path: Path) -> None:
    revoke(path, TokenRevocation("t", 1))
    with pytest.raises(LogOpenError, match="is not empty"):
        import_(path, lines(header(last=0)))
