"""Logs moved between files and streams: ``eventlog.nats.exporting`` and ``importing``."""

import asyncio
import io
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arbitrary import ITEMS, emitted
from archibald_rt.errors import LogCopyError, LogOpenError
from archibald_rt.eventlog import KeyConflict, Retention, exporting, schema
from archibald_rt.eventlog.importing import Import
from archibald_rt.eventlog.importing import import_ as into_file
from archibald_rt.eventlog.nats import exporting as of_streams
from archibald_rt.eventlog.nats import importing, scanning
from archibald_rt.eventlog.nats.importing import import_
from archibald_rt.eventlog.nats.inspection import check, read_stats
from archibald_rt.eventlog.nats.jet import Jet, Message
from archibald_rt.eventlog.nats.names import Names
from archibald_rt.eventlog.nats.opening import open_nats
from archibald_rt.eventlog.nats.remote import Where
from archibald_rt.eventlog.sqlite import open_sqlite
from archibald_rt.revocations import TokenRevocation, UserRevocation
from engines import appended, page, seqs, stored
from logfiles import append as append_to_file
from logfiles import append_by, delete, emission, held, revoke, users
from natslogs import about, append, asked, events, exported, gone_after, ranked, somewhere, streams
from natsservers import PATIENCE, NatsServer, nats_server
from processes import wait_until

NOWHERE = os.open(os.devnull, os.O_RDONLY)
STAMP = "2026-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def where(server: NatsServer) -> Iterator[Where]:
    where = somewhere(server)
    with gone_after(where):
        yield where


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


class Input(io.BytesIO):
    """An export that is read from memory."""

    name = "the test's"

    def fileno(self) -> int:
        """Stand for something without a size."""
        return NOWHERE


def lines(*members: dict[str, Any] | bytes) -> Input:
    return Input(b"".join(json.dumps(each).encode() + b"\n" for each in members))


def header(**fields: Any) -> dict[str, Any]:
    line = {"format": "archibald-rt log", "version": 1, "epoch": "e", "head": 9, "last": 9}
    return {**line, "watermarks": [], **fields}


def event(seq: int, user: str | None = "u", **fields: Any) -> dict[str, Any]:
    line = {"seq": seq, "userId": user, "committed": 5}
    return {**line, "type": "T", "payload": seq, "timestamp": STAMP, **fields}


# What comes through


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_log_comes_from_a_file_through_a_stream_into_a_file_byte_by_byte(
    server: NatsServer, data: st.DataObject
) -> None:
    items = emitted(data.draw(st.lists(ITEMS, max_size=8)))
    deleted = data.draw(st.lists(st.integers(0, max(0, len(items) - 1)), max_size=3))
    with tempfile.TemporaryDirectory() as name:
        first, second = Path(name, "first.db"), Path(name, "second.db")
        append_to_file(first)
        with closing(schema.open_writer(first)) as connection:
            for number, item in enumerate(items):
                append_by(connection, item, committed=5 + number)
            for index in deleted:
                if items:
                    delete(connection, items[index].user or "", index + 1)
        before = exported(first)
        where = somewhere(server)
        with gone_after(where):
            made = import_(where, Input(before))
            between = exported(where)
            assert list(check(where)) == []
        into_file(second, Input(between))
        after = exported(second)
    assert made.events == len(events(before)) - 1
    assert events(between) == events(before) == events(after)
    epochs = {about(each)["epoch"] for each in (before, between, after)}
    assert len(epochs) == 3
    assert made.epoch == about(between)["epoch"]


@pytest.fixture
def rich(path: Path) -> Path:
    """Return a log with something of all that there can be."""
    append_to_file(path, emission("u", '{"a":1.00}', key="k"), emission(None, key="k"), committed=5)
    append_to_file(path, emission("w\u00e9"), *users(*"uuv"), committed=7)
    append_to_file(path, emission("v", key="x"), *users(None, "z"), committed=7)
    with closing(schema.open_writer(path)) as connection:
        delete(connection, "u", 4)
        delete(connection, "v", 6)
        delete(connection, "w\u00e9", 3)
        delete(connection, "", 8)
    append_to_file(path, *users("u", None, *"uz"), committed=9)
    with closing(schema.open_writer(path)) as connection:
        delete(connection, "z", 13)
    revoke(path, UserRevocation("u", -(2**63)), UserRevocation("v", 2**63 - 1))
    revoke(path, TokenRevocation("\n\u00e9", 1_767_225_600_123_456_789))
    return path


@pytest.mark.parametrize("most", [2, 3, 1000])
def test_keys_losses_revocations_and_commit_times_come_along(
    rich: Path, tmp_path: Path, where: Where, most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # Batches of a few messages and of all of them.
        patch.setattr(importing, "MOST", most)
        patch.setattr(scanning, "STEP", most)
        import_(where, Input(exported(rich)))
        into_file(tmp_path / "again.db", Input(exported(where)))
    assert ranked(tmp_path / "again.db") == ranked(rich)


def test_a_server_goes_on_with_what_was_imported(rich: Path, where: Where) -> None:
    asyncio.run(_going_on(rich, where))


async def _going_on(path: Path, where: Where) -> None:
    made = await asyncio.to_thread(import_, where, Input(exported(path)))
    async with open_nats(where.servers, where.stream) as log, open_sqlite(path) as before:
        assert (log.epoch, log.head) == (made.epoch, made.head)
        assert log.epoch != before.epoch
        for user in ("u", "v", "w\u00e9", "z", "nobody"):
            here, there = await page(log, user), await page(before, user)
            assert [each.tail for each in here.events] == [each.tail for each in there.events]
            # Who begins before the first event of its stream is told of a loss behind that, or not.
            first, first_before = await log.first(user), await before.first(user)
            assert first is not None
            assert first_before is not None
            assert (here.lost > first - 1) == (there.lost > first_before - 1)
            for of_here, of_there in zip(here.events, there.events, strict=True):
                assert (here.lost > of_here.seq) == (there.lost > of_there.seq)
        assert sorted(await log.revocations(), key=repr) == sorted(
            await before.revocations(), key=repr
        )
        same, other, new = (emission("v", text, key=key) for text, key in ("1x", "2x", "1y"))
        (known,) = await stored(log, same)
        assert known.duplicate
        assert seqs(await page(log, "v")).count(known.seq) == 1
        (conflict,) = await appended(log, [[other]])
        assert isinstance(conflict, KeyConflict)
        (after,) = await stored(log, new)
        assert after.seq > made.head


def test_what_servers_appended_comes_into_a_file(where: Where, path: Path) -> None:
    first = emission("u", '{"a":1.00}', key="k")
    append(where, first, emission(None, key="k"), emission("v"), emission("w"), emission("u"))

    async def go_on() -> None:
        async with open_nats(where.servers, where.stream) as log:
            await log.erase("v", lambda step: step())
            await log.probe()
            await appended(log, [[emission("v", "2", key="k")]])
            await log.revoke(UserRevocation("u", 5), lambda step: step())

    asyncio.run(go_on())
    made = into_file(path, Input(exported(where)))
    found = about(exported(where))
    # u's key is message 1, its event 2; v's event 5 was erased.
    assert (found["last"], found["watermarks"]) == (10, [["v", 5]])
    assert (made.events, made.head) == (5, 10)
    rows = ranked(path)
    assert [(row[1], row[3]) for row in sorted(rows["events"], key=lambda row: row[1])] == [
        *((1, b"k"), (2, b"k"), (3, None), (4, None), (5, b"k"))
    ]
    assert len(rows["revoked_users"]) == 1

    async def repeat() -> None:
        async with open_sqlite(path) as log:
            known, conflict = await log.append([[first], [emission("u", key="k")]])
            assert isinstance(known, list)
            assert [(each.seq, each.duplicate) for each in known] == [(2, True)]
            assert isinstance(conflict, KeyConflict)

    asyncio.run(repeat())


def test_an_event_more_than_is_kept_is_none_and_a_loss(server: NatsServer, path: Path) -> None:
    where = somewhere(server)
    with gone_after(where):

        async def fill() -> None:
            async with open_nats(where.servers, where.stream, retention=Retention(0, 2, 0)) as log:
                # Its key stays behind alone.
                await stored(log, emission("u", key="k"))
                for user in ["v", "u", "u", None, None, None, "u"]:
                    await stored(log, emission(user))

        asyncio.run(fill())
        export = exported(where)
        assert [json.loads(line)["seq"] for line in export.split(b"\n")[1:-1]] == [3, 5, 7, 8, 9]
        assert about(export)["watermarks"] == [[None, 6], ["u", 4]]
        assert b'"key"' not in export
        into_file(path, Input(export))


def test_limits_are_kept_and_what_is_beyond_them_is_said(where: Where, path: Path) -> None:
    append_to_file(path, *users(*"uuuuv"))
    made = import_(where, Input(exported(path)), retention=Retention(0, 2, 0))
    assert (made.events, made.head, made.beyond) == (3, 5, 2)

    async def read() -> None:
        async with open_nats(where.servers, where.stream, retention=Retention(0, 2, 0)) as log:
            read = await page(log, "u")
            assert (seqs(read), read.lost) == ([3, 4], 2)

    asyncio.run(read())


@pytest.mark.parametrize("exported_before", [2, 6])
@pytest.mark.parametrize("most", [2, 1000])
def test_what_was_deleted_while_a_file_was_exported_is_gone_and_known_to_be(
    path: Path, tmp_path: Path, where: Where, most: int, exported_before: int
) -> None:
    append_to_file(path, *users(*"uvuv"), emission("u", key="k"), *users(*"wwuw", None))
    pieces: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch, held(path) as connection:
        patch.setattr(exporting, "STEP", 2)

        def prune(_what: str, done: int, _total: int | None) -> None:
            if done == exported_before:
                delete(connection, "u", 5)

        exporting.export(path, pieces.append, progress=prune)
    assert json.loads(pieces[-1])["watermarks"] == [["u", 5]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importing, "MOST", most)
        made = import_(where, Input(b"".join(pieces)))
    assert (made.events, made.beyond) == (7, 0)
    into_file(tmp_path / "again.db", Input(exported(where)))
    assert ranked(tmp_path / "again.db") == ranked(path)


def test_what_is_erased_while_a_stream_is_exported_is_gone_and_known_to_be(
    path: Path, where: Where
) -> None:
    append(where, *users(*"uvuvwwww"))
    done = threading.Event()

    def erase(*_told: object) -> None:
        if not done.is_set():
            done.set()
            asyncio.run(erasing())

    async def erasing() -> None:
        async with open_nats(where.servers, where.stream) as log:
            await log.erase("u", lambda step: step())
            await appended(log, [[emission("u")]])

    pieces: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scanning, "STEP", 2)
        of_streams.export(where, pieces.append, progress=erase)
    # The first had been written.
    assert json.loads(pieces[-1])["watermarks"] == [["u", 3]]
    made = into_file(path, Input(b"".join(pieces)))
    assert (made.events, made.head) == (6, 8)
    assert [row[0] for row in ranked(path)["watermarks"]] == [b"u"]


def test_an_export_that_the_stream_s_limits_overtake_is_given_up(where: Where) -> None:
    append(where, *users(*"uvuvwwww"))

    def purge(*_told: object) -> None:
        async def work(jet: Jet) -> None:
            await jet.ask(f"STREAM.PURGE.{where.stream}", {"seq": 7})

        asked(where, work)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scanning, "STEP", 2)
        with pytest.raises(LogCopyError, match="lost events up to seq 6 before they were exported"):
            of_streams.export(where, lambda _piece: None, progress=purge)
    # Here it begins where the stream does now.
    assert len(events(exported(where))) == 3


def test_an_export_of_nothing_is_imported(where: Where, path: Path) -> None:
    made = import_(where, lines(header(head=9, last=0)))
    assert (made.events, made.head) == (0, 0)
    assert about(exported(where)) == header(epoch=made.epoch, head=0, last=0)
    append(where, emission("u"))
    assert into_file(path, Input(exported(where))).events == 1


# What doesn't


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (lines(), "the input is empty: expected the line about a log"),
        (lines(header(version=2)), "line 1: version: expected 1; a later release wrote it"),
        (lines(header(), event(2), event(1)), "line 3: seq: expected one above 2, the line befo"),
        (lines(header(), event(1), event(8)), "the input is cut off after line 3: "),
        (
            lines(header(), event(1, key="k"), event(2, "v", key="k"), event(9, key="k")),
            "line 4: key: this user's event 1 has the same",
        ),
        (
            lines(header(), event(1), event(9, payload="x" * 1_100_000)),
            "line 3: unreadable: an event of 1100059 bytes; the NATS servers' max_payload allows",
        ),
    ],
)
@pytest.mark.parametrize("most", [2, 1000])
def test_an_import_is_whole_or_nothing_and_says_where_it_is_wrong(
    where: Where, file: Input, said: str, most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importing, "MOST", most)
        with pytest.raises(LogCopyError) as caught:
            import_(where, Input(file.getvalue()))
    assert str(caught.value).startswith(said)
    assert streams(where) == {}


def test_a_log_that_holds_something_is_not_imported_into(where: Where, path: Path) -> None:
    append_to_file(path, *users(*"uv"))
    append(where, emission("u"))
    before = streams(where)
    with pytest.raises(LogOpenError, match="is not empty; import into a new one"):
        import_(where, Input(exported(path)))
    assert streams(where) == before

    async def erase() -> None:
        async with open_nats(where.servers, where.stream) as log:
            await log.erase("u", lambda step: step())

    asyncio.run(erase())
    with pytest.raises(LogOpenError, match="is not empty; import into a new one"):
        import_(where, Input(exported(path)))


def test_what_is_known_of_another_log_s_users_is_not_taken_over(where: Where, path: Path) -> None:
    append_to_file(path, *users(*"uv"))
    append(where, emission("u"))

    async def delete_stream(jet: Jet) -> None:
        await jet.ask(f"STREAM.DELETE.{where.stream}")

    async def revoke() -> None:
        async with open_nats(where.servers, where.stream) as log:
            await log.revoke(UserRevocation("u", 5), lambda step: step())

    asyncio.run(revoke())
    asked(where, delete_stream)
    with pytest.raises(LogOpenError, match=r"bucket KV_\w+_state: is not empty"):
        import_(where, Input(exported(path)))
    assert [*streams(where)] == [f"KV_{where.stream}_state"]


def test_somebody_else_s_stream_is_left_as_it_is(where: Where, path: Path) -> None:
    append_to_file(path, *users(*"uv"))

    async def make(jet: Jet) -> None:
        config = {"name": where.stream, "subjects": [f"{where.stream}.>"]}
        await jet.ask(f"STREAM.CREATE.{where.stream}", config)

    asked(where, make)
    before = streams(where)
    with pytest.raises(LogOpenError, match="is not one of archibald_rt"):
        import_(where, Input(exported(path)))
    with pytest.raises(LogOpenError, match="is not one of archibald_rt"):
        exported(where)
    assert streams(where) == before


@pytest.mark.gen_test
async def test_an_empty_log_that_a_server_runs_on_is_not_imported_into(
    where: Where, path: Path
) -> None:
    append_to_file(path, *users(*"uv"))
    export = exported(path)
    async with open_nats(where.servers, where.stream) as log:
        with pytest.raises(LogOpenError, match="a server is running on it"):
            await asyncio.to_thread(import_, where, Input(export))
        epoch = log.epoch
        assert (await stored(log, emission("u")))[0].seq == 1
        await log.erase("u", lambda step: step())
    assert about(exported(where))["epoch"] == epoch


def test_an_empty_log_that_no_server_runs_on_is_replaced(where: Where, path: Path) -> None:
    append_to_file(path, *users(*"uv"))
    append(where)
    epoch = about(exported(where))["epoch"]

    def imported() -> Import | None:
        try:
            return import_(where, Input(exported(path)))
        except LogOpenError:
            # What followed it is forgotten in a moment.
            return None

    made: list[Import] = []

    def imported_at_last() -> bool:
        made.extend(filter(None, [imported()]))
        return bool(made)

    wait_until(imported_at_last, within=PATIENCE)
    assert made[0].epoch == about(exported(where))["epoch"] != epoch


def test_an_import_into_which_somebody_else_stores_fails(where: Where, path: Path) -> None:
    append_to_file(path, *users(*"uvw"))
    export = exported(path).split(b"\n")

    class Slowly(Input):
        """An export, between whose lines something is stored."""

        def readline(self, *_size: Any) -> bytes:
            line = super().readline()
            if line.startswith(b'{"seq":3'):
                asked(where, store)
            return line

    async def store(jet: Jet) -> None:
        await jet.store([Message(Names(where.stream).durable("u"), b"")])

    with pytest.raises(LogCopyError, match="somebody else stores in it"):
        import_(where, Slowly(b"\n".join(export)))
    assert streams(where) == {}


def test_an_import_behind_which_somebody_else_stores_fails(where: Where, path: Path) -> None:
    append_to_file(path, *users(*"uvw"))

    async def store(jet: Jet) -> None:
        await jet.store([Message(Names(where.stream).durable("u"), b"")])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importing, "_lose", lambda *_: len([asked(where, store)]))
        with pytest.raises(LogCopyError, match="somebody else has changed it"):
            import_(where, Input(exported(path)))
    assert streams(where) == {}


# Figures, and whether all is right


def test_the_figures_of_a_stream(where: Where) -> None:
    append(where, emission("u", key="k"), emission(None), emission("v"), emission("u"))
    stats = read_stats(where)
    assert (stats.head, stats.events, stats.broadcasts, stats.users) == (5, 4, 1, 2)
    assert stats.epoch == about(exported(where))["epoch"]
    assert stats.oldest_commit is not None
    assert stats.newest_commit is not None
    assert 0 < stats.oldest_commit <= stats.newest_commit
    assert stats.bytes > 0


def test_without_a_stream_there_is_nothing_and_none_is_made(where: Where) -> None:
    for command in (read_stats, exported, lambda where: list(check(where))):
        with pytest.raises(LogOpenError, match="there is no such stream"):
            command(where)
    assert streams(where) == {}


def test_what_somebody_else_put_into_a_stream_is_found(where: Where) -> None:
    append(where, emission("u", key="k"))
    names = Names(where.stream)

    async def spoil(jet: Jet) -> None:
        good = emission("u").tail
        for subject, data in (
            (f"{where.stream}.d.u", good),
            (names.durable("u"), b"\xff"),
            (names.durable("u"), b'"type":"T"}'),
            (names.durable("u"), good.replace(b",", b" ,")),
            (names.durable("u"), good),
            (names.probe, b""),
        ):
            await jet.store([Message(subject, data)])

    assert list(check(where)) == []
    asked(where, spoil)
    faults = list(check(where))
    assert [fault.split(":")[0] for fault in faults] == [f"message {seq}" for seq in (3, 4, 5, 6)]
