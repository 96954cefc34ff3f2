"""A backup of a log: ``eventlog.copying``."""

import random
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archibald_rt.errors import LogCopyError, LogOpenError
from archibald_rt.eventlog import Retention, copying, revoked, schema
from archibald_rt.eventlog.base import Step
from archibald_rt.eventlog.copying import back_up
from archibald_rt.eventlog.epochs import backup_made_ms
from archibald_rt.eventlog.sqlite import open_sqlite
from archibald_rt.revocations import Revocation, TokenRevocation, UserRevocation
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
    tables,
    users,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "copy.db"


@pytest.fixture
def small_steps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copying, "STEP", 2)
        yield


def mixed(path: Path) -> None:
    """Make a log with all there may be in one."""
    append(path, emission("u", '{"a":1.00}', key="k"), emission(None, key="k"), emission("v"))
    append(path, emission("w\u00e9"), emission("u"), emission("u"), emission("v", key="x"))
    with closing(schema.open_writer(path)) as connection:
        delete(connection, "u", 5)
        delete(connection, "gone", 0)
        connection.execute("INSERT INTO meta VALUES ('probe', 1)")
        connection.execute("INSERT INTO meta VALUES ('counted', '1000:7')")


def marked(path: Path) -> int | None:
    with closing(schema.open_reader(path, immutable=True)) as connection:
        return backup_made_ms(connection)


@pytest.mark.usefixtures("small_steps")
def test_a_copy_holds_what_the_log_holds_and_is_marked(
    tmp_path: Path, path: Path, copy: Path
) -> None:
    mixed(path)
    before = folder(tmp_path)
    heard: list[tuple[str, int, int | None]] = []
    made = back_up(path, copy, progress=lambda *told: heard.append(told))
    assert (made.events, made.head) == (5, 7)
    after = folder(tmp_path)
    assert set(after) == {*before, "copy.db"}
    assert {name: after[name] for name in before} == before
    assert tables(copy) == tables(path)
    assert marked(copy) is not None
    assert [told[1:] for told in heard[:3]] == [(2, 5), (4, 5), (5, 5)]
    assert marked(path) is None


def test_a_copy_is_a_log_as_a_server_leaves_it(path: Path, copy: Path) -> None:
    mixed(path)
    path.chmod(0o600)
    back_up(path, copy)
    assert copy.stat().st_mode & 0o777 == 0o600
    with closing(schema.open_reader(copy)) as connection:
        for name, value in {
            "journal_mode": "wal",
            "auto_vacuum": 2,
            "application_id": schema.APPLICATION_ID,
            "user_version": schema.VERSION,
            "integrity_check": "ok",
        }.items():
            assert connection.execute(f"PRAGMA {name}").fetchone()[0] == value
        # It has not been pruned: what the server noted of that is not true of it.
        noted = connection.execute("SELECT name FROM meta").fetchall()
        assert sorted(noted) == [("backup",), ("epoch",)]


@pytest.mark.gen_test
async def test_a_copy_goes_on_as_the_log_would_have_but_under_another_epoch(
    path: Path, copy: Path
) -> None:
    mixed(path)
    back_up(path, copy)
    with closing(schema.open_reader(path, immutable=True)) as connection:
        epoch = schema.read_epoch(connection)
    async with open_sqlite(copy) as log:
        assert log.epoch != epoch
        assert log.head == 7
        page = await log.page("u", after=0, through=7, max_events=10, max_bytes=2**20)
        assert ([event.seq for event in page.events], page.lost) == ([2, 6], 5)
        (stored,) = await log.append([[emission("v", key="x"), emission("v")]])
        assert isinstance(stored, list)
        assert [(each.seq, each.duplicate) for each in stored] == [(7, True), (8, False)]


def test_a_log_that_was_emptied_goes_on_with_its_seqs(path: Path, copy: Path) -> None:
    append(path, emission("u"), emission("u"))
    with closing(schema.open_writer(path)) as connection:
        delete(connection, "u", 2)
    assert back_up(path, copy).events == 0
    assert tables(copy) == tables(path)
    append(copy, emission("u"))
    assert tables(copy)["commits"][0][0] == 3


def test_a_log_that_was_never_used_can_be_copied(path: Path, copy: Path) -> None:
    append(path)
    assert back_up(path, copy).head == 0
    assert tables(copy) == tables(path)
    append(copy, emission())
    assert tables(copy)["commits"][0][0] == 1


def test_a_copy_of_a_copy_is_one_too(tmp_path: Path, path: Path, copy: Path) -> None:
    mixed(path)
    back_up(path, copy)
    second = tmp_path / "second.db"
    back_up(copy, second)
    assert tables(second) == tables(path)
    assert marked(second) is not None


def test_what_a_crash_left_is_in_the_copy(path: Path, copy: Path) -> None:
    append(path, emission("u"))
    leave_hot(path, *users("u", None, "v"))
    assert back_up(path, copy).events == 4
    with closing(schema.open_writer(path)):
        pass
    assert tables(copy) == tables(path)


def test_tables_that_a_later_version_adds_are_copied_too(path: Path, copy: Path) -> None:
    more = "; CREATE TABLE revocations (jti BLOB PRIMARY KEY, expires INTEGER) WITHOUT ROWID;"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "_TABLES", schema._TABLES + more)  # noqa: SLF001 - as it may become
        mixed(path)
        by_hand(path, "INSERT INTO revocations VALUES (x'01', 5)")
        back_up(path, copy)
    assert tables(copy)["revocations"] == [(b"\x01", 5)]


# While the log goes on


class Meanwhile:
    """Does something to the log between two steps of a copy, by the connection that writes."""

    def __init__(self, connection: sqlite3.Connection, *actions: str) -> None:
        self.connection = connection
        self.actions = list(actions)

    def __call__(self, *_told: object) -> None:
        # No step leaves a read transaction behind that would keep the WAL growing.
        busy = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        assert busy == 0
        if self.actions:
            action, *words = self.actions.pop(0).split()
            if action == "append":
                append_by(self.connection, *users(*words))
            else:
                delete(self.connection, words[0], int(words[1]), commits=action == "delete")


@pytest.mark.usefixtures("small_steps")
def test_what_is_appended_meanwhile_is_not_in_the_copy(path: Path, copy: Path) -> None:
    append(path, *users(*"uvuvw"))
    expected = tables(path)
    with held(path) as connection:
        meanwhile = Meanwhile(connection, "append a u z", "append a u z", "append a u z")
        back_up(path, copy, progress=meanwhile)
    assert meanwhile.actions == []
    assert tables(copy) == expected


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("action", ["delete", "forget"])
def test_what_is_deleted_meanwhile_is_gone_from_the_copy_and_said_to_be(
    path: Path, copy: Path, action: str
) -> None:
    append(path, *users(*"uuuuvvvv"))
    # When the first two are copied; then all of both is, and their commits are not.
    with held(path) as connection:
        meanwhile = Meanwhile(
            connection, f"{action} u 3", "delete v 5", "delete v 6", f"{action} v 7"
        )
        assert back_up(path, copy, progress=meanwhile).events == 2
    assert meanwhile.actions == []
    found = tables(copy)
    assert [row[:2] for row in found["events"]] == [(b"u", 4), (b"v", 8)]
    assert [row[0] for row in found["commits"]] == [4, 8]
    assert found["watermarks"] == [(b"u", 3), (b"v", 7)]


@pytest.mark.usefixtures("small_steps")
def test_a_watermark_lies_never_above_the_copy_s_head(path: Path, copy: Path) -> None:
    append(path, *users(*"uuu"))
    with held(path) as connection:
        meanwhile = Meanwhile(connection, "append u u", "delete u 5")
        assert back_up(path, copy, progress=meanwhile) == copying.Backup(0, 3)
    assert tables(copy)["watermarks"] == [(b"u", 3)]
    assert tables(copy)["sqlite_sequence"] == [("commits", 3)]


@pytest.mark.usefixtures("small_steps")
def test_nothing_is_left_in_the_copy_of_what_is_erased_meanwhile(path: Path, copy: Path) -> None:
    secret = "a-secret-of-somebody-who-wants-to-be-forgotten"
    append(path, *(emission("u", f'"{secret}"') for _ in range(5)), emission("v"))
    with held(path) as connection:
        meanwhile = Meanwhile(connection, "append v", "append v", "delete u 5")
        back_up(path, copy, progress=meanwhile)
    assert meanwhile.actions == []
    assert secret.encode() not in copy.read_bytes()


@pytest.mark.usefixtures("small_steps")
@settings(max_examples=60)
@given(
    before=st.lists(st.sampled_from([*"uvw", None]), max_size=25),
    seed=st.integers(0, 2**32),
    prefix=st.integers(0, 8),
)
def test_whatever_is_done_meanwhile_the_copy_is_what_the_log_has_left_of_before(
    before: list[str | None], seed: int, prefix: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - no secret
    with tempfile.TemporaryDirectory() as name:
        path, copy = Path(name, "events.db"), Path(name, "copy.db")
        append(path, *users(*before))
        with held(path) as connection:
            delete(connection, "u", prefix, commits=False)
            head = schema.read_head(connection)

            def meanwhile(*_told: object) -> None:
                append_by(connection, *users(*chance.choices([*"uvwx", None], k=2)))
                user = chance.choice(["u", "v", "w", "x", ""])
                through = chance.randint(0, head + 10)
                delete(connection, user, through, commits=chance.random() < 0.5)

            back_up(path, copy, progress=meanwhile)
            kept = "SELECT user, seq, tail FROM events WHERE seq <= ? ORDER BY user, seq"
            expected = connection.execute(kept, (head,)).fetchall()
            lost = connection.execute(
                "SELECT user, min(seq, ?) FROM watermarks ORDER BY user", (head,)
            ).fetchall()
        found = tables(copy)
        assert sorted((user, seq, tail) for user, seq, _, _, tail in found["events"]) == expected
        assert sorted((user, seq) for seq, user, _ in found["commits"]) == sorted(
            (user, seq) for user, seq, _ in expected
        )
        assert found["watermarks"] == lost
        assert found["sqlite_sequence"] == ([("commits", head)] if head else [])


@pytest.mark.gen_test
async def test_a_copy_is_made_beside_the_server_that_prunes(path: Path, copy: Path) -> None:
    async def turn(step: Step) -> int:
        return await step()

    async with open_sqlite(path) as log:
        await log.append([users(*"uvw" * 20)])
        await log.prune(Retention(max_events_per_user=5), turn, lambda _: None)
        assert back_up(path, copy).events == 15
        await log.prune(Retention(max_events_per_user=1), turn, lambda _: None)
    assert len(tables(path)["events"]) == 3
    assert len(tables(copy)["events"]) == 15


# What can't be


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path, path: Path, copy: Path) -> None:
    append(path, emission())
    copy.write_text("mine")
    before = folder(tmp_path)
    for destination in (copy, path):
        with pytest.raises(LogCopyError, match="is there already"):
            back_up(path, destination)
    assert folder(tmp_path) == before


def test_nothing_is_left_of_a_copy_that_fails(tmp_path: Path, path: Path, copy: Path) -> None:
    append(path, *users(*"uvw" * 2000))
    before = folder(tmp_path)

    def interrupt(*_told: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        back_up(path, copy, progress=interrupt)
    assert folder(tmp_path) == before
    damaged = before["events.db"][:40_000] + bytes(len(before["events.db"]) - 40_000)
    path.write_bytes(damaged)
    with pytest.raises(LogOpenError, match=r"events\.db: .*malformed"):
        back_up(path, copy)
    assert set(folder(tmp_path)) == set(before)


def test_a_copy_that_can_not_be_written_is_named(tmp_path: Path, path: Path) -> None:
    append(path, emission())
    destination = tmp_path / "nowhere" / "copy.db"
    with pytest.raises(LogCopyError) as caught:
        back_up(path, destination)
    assert str(caught.value) == f"{destination}: No such file or directory"


def test_each_step_reads_neighbours_and_nothing_else(path: Path) -> None:
    append(path, emission())
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ATTACH ? AS source", (str(path),))
        values = {"user": b"", "seq": 0, "head": 1, "step": 1}
        for statement in (copying._EVENTS, copying._COMMITS):  # noqa: SLF001 - how it is done
            plan = [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + statement, values)]
            assert len(plan) == 1
            assert plan[0].startswith("SEARCH source.")


# Revocations


def test_a_backup_carries_revocations(path: Path, copy: Path) -> None:
    append(path, emission())
    revocations: list[Revocation] = [UserRevocation("ann", 7), TokenRevocation("t", 8)]
    revoke(path, *revocations)
    back_up(path, copy)
    with closing(schema.open_writer(copy)) as connection:
        assert revoked.read(connection) == revocations


def test_a_log_of_before_there_were_revocations_is_copied(path: Path, copy: Path) -> None:
    append(path, emission())
    with closing(schema.open_writer(path)) as connection:
        downgrade(connection)
    assert back_up(path, copy).events == 1
    with closing(schema.open_writer(copy)) as connection:
        assert schema.read_version(connection) == schema.VERSION
        assert revoked.read(connection) == []
