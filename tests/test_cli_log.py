"""``archibald-rt log``, as a program of its own, beside servers that run and without one."""

import asyncio
import contextlib
import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from archibald_rt.eventlog import files, schema
from logcommands import begun, done, refused
from logfiles import append, by_hand, emission, folder, tables, users
from processes import PATIENCE, command, environment, serving, wait_until
from support import Harness, eventually, settings_for

COMMANDS = [
    ("stats",),
    ("check",),
    ("prune",),
    ("backup", "copy.db"),
    ("new-epoch",),
    ("export", "export.ndjson"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where `command` has the log of this test."""
    return tmp_path / "events.db"


def elsewhere(path: Path) -> dict[str, str]:
    return {"ARCHIBALD_RT_LOG_PATH": str(path)}


def large(path: Path, rows: int = 300_000) -> None:
    """Make a log whose copying takes a while."""
    append(path, *users(*"uvw"))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        numbers = "WITH RECURSIVE n(i) AS (SELECT 4 UNION ALL SELECT i + 1 FROM n WHERE i < :rows)"
        for insert in (
            "INSERT INTO events SELECT x'75', i, instant, NULL, tail FROM n, events WHERE seq = 1",
            "INSERT INTO commits SELECT i, x'75', committed FROM n, commits WHERE seq = 1",
        ):
            connection.execute(f"{numbers} {insert}", {"rows": rows})


def partial(folder: Path) -> list[Path]:
    return [each for each in folder.iterdir() if each.name.endswith(".partial")]


def until_partial(folder: Path, process: "subprocess.Popen[bytes]") -> None:
    """Wait until a command writes the file that is not in its place yet."""

    def writes() -> bool:
        assert process.poll() is None
        return any(each.stat().st_size for each in partial(folder))

    wait_until(writes)


# One by one


def test_stats_are_for_people_and_for_machines(tmp_path: Path, path: Path) -> None:
    append(path, *users(*"uvu", None), committed=1_767_225_600_500)
    before = folder(tmp_path)
    figures = json.loads(done(tmp_path, "stats", "--json"))
    with closing(schema.open_reader(path, immutable=True)) as connection:
        epoch = schema.read_epoch(connection)
    assert figures == {
        "path": str(path),
        "epoch": epoch,
        "head": 4,
        "events": 4,
        "broadcasts": 1,
        "users": 2,
        "oldestCommit": "2026-01-01T00:00:00.500Z",
        "newestCommit": "2026-01-01T00:00:00.500Z",
        "databaseBytes": path.stat().st_size,
        "walBytes": 0,
        "freeBytes": 0,
        "backupMade": None,
    }
    text = done(tmp_path, "stats")
    shown = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert shown == {name: str(value) for name, value in figures.items()} | {"backupMade": "-"}
    assert folder(tmp_path) == before


def test_a_time_that_is_none_is_no_traceback(tmp_path: Path, path: Path) -> None:
    append(path, emission())
    by_hand(path, "UPDATE commits SET committed = 10000000000000000")
    assert json.loads(done(tmp_path, "stats", "--json"))["oldestCommit"].startswith("unreadable")
    by_hand(path, "UPDATE commits SET committed = 'soon'")
    assert json.loads(done(tmp_path, "stats", "--json"))["oldestCommit"].startswith("unreadable")


@pytest.mark.parametrize("options", [(), ("--full",)])
def test_check_says_what_is_wrong_and_ends_with_1(
    tmp_path: Path, path: Path, options: tuple[str, ...]
) -> None:
    append(path, *users(*"uv" * 15))
    assert done(tmp_path, "check", *options) == "the log is good\n"
    by_hand(path, "DELETE FROM events WHERE seq IN (3, 4)")
    ended = command(tmp_path, "log", "check", *options)
    assert ended.returncode == 1
    assert ended.stdout == (
        "commit 3: its event, of user 'u', is missing\n"
        "commit 4: its event, of user 'v', is missing\n"
    )
    assert ended.stderr == f"archibald-rt: log {path}: is not good, faults: 2\n"
    by_hand(path, "DELETE FROM events")
    ended = command(tmp_path, "log", "check", *options)
    assert len(ended.stdout.splitlines()) == 20
    assert ended.stderr == f"archibald-rt: log {path}: has more than 20 faults\n"


def test_prune_deletes_what_is_beyond_the_limits(tmp_path: Path, path: Path) -> None:
    append(path, *users(*"uvuu"), committed=time.time_ns() // 1_000_000)
    limits = {"ARCHIBALD_RT_LOG_MAX_EVENTS_PER_USER": "2"}
    assert done(tmp_path, "prune", extra=limits) == "1 events deleted\n"
    assert done(tmp_path, "prune", extra={"ARCHIBALD_RT_LOG_MAX_AGE": "1ms"}) == (
        "3 events deleted\n"
    )
    assert done(tmp_path, "check") == "the log is good\n"


def test_a_backup_is_started_under_a_new_epoch(tmp_path: Path, path: Path) -> None:
    append(path, *users(*"uvu"))
    assert done(tmp_path, "backup", "copy.db") == "3 events, up to seq 3, in copy.db\n"
    copy = tmp_path / "copy.db"
    figures = json.loads(done(tmp_path, "stats", "--json", extra=elsewhere(copy)))
    assert figures["backupMade"] is not None
    with serving(tmp_path, elsewhere(copy)) as server:
        (started,) = (line for line in server.lines if "backup" in line["event"])
        assert started["level"] == "info"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    after = json.loads(done(tmp_path, "stats", "--json", extra=elsewhere(copy)))
    assert after["backupMade"] is None
    assert after["epoch"] == started["epoch"] != figures["epoch"]
    assert after["events"] == 3


def test_new_epoch_prints_it(tmp_path: Path, path: Path) -> None:
    append(path, *users(*"uvu"))
    before = json.loads(done(tmp_path, "stats", "--json"))["epoch"]
    printed = done(tmp_path, "new-epoch")
    after = json.loads(done(tmp_path, "stats", "--json"))["epoch"]
    assert printed == f"{after}\n" != f"{before}\n"


def test_what_the_log_says_of_itself_is_not_printed_among_a_command_s_results(
    tmp_path: Path, path: Path
) -> None:
    append(path, emission())
    done(tmp_path, "backup", "copy.db")
    ended = command(tmp_path, "log", "new-epoch", extra=elsewhere(tmp_path / "copy.db"))
    assert len(ended.stdout.splitlines()) == 1
    assert "a backup is started" in ended.stderr


def test_an_export_goes_to_a_file_or_through_a_pipe_into_another_log(
    tmp_path: Path, path: Path
) -> None:
    append(path, emission("u", '{"a":1.00}', key="k"), *users("\U0001f980", None))
    assert done(tmp_path, "export", "export.ndjson") == "3 events, up to seq 3, in export.ndjson\n"
    export = (tmp_path / "export.ndjson").read_text()
    assert export.count("\n") == 4
    assert done(tmp_path, "export") == export == done(tmp_path, "export", "-")
    for number, stdin in enumerate((None, export.encode())):
        there = elsewhere(tmp_path / str(number) / "events.db")
        arguments = ["import"] if stdin else ["import", "export.ndjson"]
        printed = done(tmp_path, *arguments, stdin=stdin, extra=there)
        epoch = printed.split()[-1]
        assert printed == f"3 events, up to seq 3, under the new epoch {epoch}\n"
        again = done(tmp_path, "export", extra=there)
        assert again.splitlines()[1:] == export.splitlines()[1:]
        assert json.loads(again.splitlines()[0])["epoch"] == epoch
        assert done(tmp_path, "check", "--full", extra=there) == "the log is good\n"


def test_an_import_names_the_line_that_is_wrong(tmp_path: Path, path: Path) -> None:
    append(path, *users(*"uv"))
    export = done(tmp_path, "export").splitlines()
    there = elsewhere(tmp_path / "other.db")
    wrong = "\n".join([export[0], export[1], export[2].replace('"v"', '""')]).encode()
    line = refused(tmp_path, "import", stdin=wrong, extra=there)
    assert line == "archibald-rt: line 3: userId: expected 1 to 256 characters"
    assert "cut off" in refused(
        tmp_path, "import", stdin="\n".join(export[:2]).encode(), extra=there
    )
    assert not (tmp_path / "other.db").exists()


# What can't be


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda words: words[0])
def test_without_a_log_a_command_makes_nothing_and_says_so(
    tmp_path: Path, path: Path, arguments: tuple[str, ...]
) -> None:
    assert refused(tmp_path, *arguments) == (
        f"archibald-rt: log {path}: no such file; check [log] path"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda words: words[0])
def test_what_is_no_log_is_left_as_it_is(
    tmp_path: Path, path: Path, arguments: tuple[str, ...]
) -> None:
    append(path, *users(*"uvw" * 1000))
    newer = schema.VERSION + 1
    by_hand(path, f"PRAGMA user_version = {newer}")
    before = folder(tmp_path)
    assert f"version {newer}" in refused(tmp_path, *arguments)
    assert folder(tmp_path) == before
    path.write_bytes(before["events.db"][:100] + bytes(20_000))
    before = folder(tmp_path)
    assert f"log {path}: " in refused(tmp_path, *arguments)
    assert {**folder(tmp_path), "events.db.lock": b""} == {**before, "events.db.lock": b""}


def test_wrong_usage_ends_with_2(tmp_path: Path, path: Path) -> None:
    append(path, emission())
    for arguments in (
        ("nonsense",),
        ("backup",),
        ("export", "a", "b"),
        ("import", "nowhere.ndjson"),
        ("stats", "--config", "nowhere.ini"),
    ):
        refused(tmp_path, *arguments, code=2)


@pytest.mark.parametrize("name", ["backup", "export"])
def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path, path: Path, name: str) -> None:
    append(path, emission())
    (tmp_path / "mine").write_text("mine")
    assert "mine: is there already" in refused(tmp_path, name, "mine")
    assert "No such file" in refused(tmp_path, name, "nowhere/copy")
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("name", ["backup", "export"])
def test_a_file_that_grows_too_large_is_one_line_and_nothing(
    tmp_path: Path, path: Path, name: str
) -> None:
    large(path, 20_000)
    # A stand-in for a full disk; a hundred blocks.
    program = f'ulimit -f 100; exec "{sys.executable}" -m archibald_rt log {name} copy'
    ended = subprocess.run(
        ["bash", "-c", program],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("archibald-rt: copy: ")
    assert len(ended.stderr.splitlines()) == 1
    assert set(folder(tmp_path)) == {"events.db"}


def test_an_output_that_takes_no_more_is_no_traceback(tmp_path: Path, path: Path) -> None:
    large(path, 20_000)
    program = f'"{sys.executable}" -W error -m archibald_rt log export'
    for shell, code, said in (
        (f"{program} > /dev/full", 1, "archibald-rt: standard output: No space left on device\n"),
        (f"set -o pipefail; {program} | head -1 > /dev/null", 1, ""),
    ):
        ended = subprocess.run(
            ["bash", "-c", shell],
            cwd=tmp_path,
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (code, said)


# Cut short


@pytest.mark.parametrize("name", ["backup", "export"])
def test_a_copy_that_is_killed_is_not_there(tmp_path: Path, path: Path, name: str) -> None:
    large(path)
    before = path.read_bytes()
    with begun(tmp_path, name, "copy") as process:
        until_partial(tmp_path, process)
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
    assert not (tmp_path / "copy").exists()
    assert path.read_bytes() == before
    # What is left of it is in nobody's way.
    done(tmp_path, name, "copy")
    assert (tmp_path / "copy").exists()


def test_an_import_that_is_killed_leaves_no_log(tmp_path: Path, path: Path) -> None:
    append(path, *users(*"uv"))
    export = done(tmp_path, "export").encode().splitlines(keepends=True)
    other = tmp_path / "other" / "events.db"
    with begun(tmp_path, "import", extra=elsewhere(other)) as process:
        assert process.stdin is not None
        process.stdin.write(b"".join(export[:2]))
        process.stdin.flush()
        wait_until(other.parent.is_dir)
        until_partial(other.parent, process)
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
    # Not more than the empty file that it locked.
    assert files.is_empty(other)
    assert "no log in this file yet" in refused(tmp_path, "check", extra=elsewhere(other))
    done(tmp_path, "import", stdin=b"".join(export), extra=elsewhere(other))
    assert len(tables(other)["events"]) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("name", ["backup", "export", "import"])
def test_an_interrupted_command_leaves_nothing_behind(
    tmp_path: Path, path: Path, name: str, number: signal.Signals
) -> None:
    extra = {}
    if name == "import":
        extra = elsewhere(tmp_path / "other.db")
    else:
        large(path)
    with begun(tmp_path, name, *([] if extra else ["copy"]), extra=extra) as process:
        until_partial(tmp_path, process)
        process.send_signal(number)
        assert process.wait(PATIENCE) == 1
        assert process.stderr is not None
        assert process.stderr.read().strip() == b""
    assert set(folder(tmp_path)) <= {"events.db", "other.db.lock"}


# On a terminal


def on_a_terminal(folder: Path, *arguments: str) -> tuple[bytes, str]:
    """Run a command whose stderr is a terminal; returns its output and what is shown there."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "archibald_rt", "log", *arguments],
        cwd=folder,
        env={**environment(folder), "TERM": "xterm", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = b""
        assert process.stdout is not None
        output = process.stdout.read()
        with contextlib.suppress(OSError):  # EIO is the end of a terminal.
            while piece := os.read(ours, 4096):
                shown += piece
    os.close(ours)
    assert process.returncode == 0
    return output, shown.decode()


def test_progress_is_shown_on_a_terminal_and_not_in_the_output(tmp_path: Path, path: Path) -> None:
    large(path, 20_000)
    output, shown = on_a_terminal(tmp_path, "export")
    assert output.decode() == done(tmp_path, "export")
    assert "exporting" in shown
    assert "100%" in shown
    for arguments, word in (
        (("backup", "copy.db"), "copying"),
        (("check",), "checking events"),
        (("prune",), "pruning"),
    ):
        output, shown = on_a_terminal(tmp_path, *arguments)
        assert len(output.splitlines()) == 1
        assert word in shown


# Beside a server


def test_a_server_keeps_its_log_to_itself(tmp_path: Path, path: Path) -> None:
    append(path, emission())
    with serving(tmp_path) as server:
        for arguments in (("new-epoch",), ("import",), ("prune",)):
            line = refused(tmp_path, *arguments, stdin=b"")
            assert "another server is running on it" in line
            if arguments == ("prune",):
                assert "a server prunes by itself, every [log] prune_every" in line
        assert done(tmp_path, "check", "--full") == "the log is good\n"
        assert json.loads(done(tmp_path, "stats", "--json"))["head"] == 1
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert set(folder(tmp_path)) == {"events.db", "events.db.lock"}


def test_a_log_is_copied_as_a_killed_server_left_it(tmp_path: Path, path: Path) -> None:
    with serving(tmp_path) as server:
        ports = {"ARCHIBALD_RT_INTERNAL_PORT": server.internal_url.rpartition(":")[2]}
        for number in range(3):
            assert command(tmp_path, "emit", "u", "A", str(number), extra=ports).returncode == 0
        server.signal(signal.SIGKILL)
        server.wait()
    before = folder(tmp_path)
    assert files.wal_path(path).stat().st_size > 0
    export = done(tmp_path, "export")
    assert [json.loads(line)["payload"] for line in export.splitlines()[1:]] == [0, 1, 2]
    done(tmp_path, "backup", "copy.db")
    assert done(tmp_path, "check") == "the log is good\n"
    for name in ("events.db", "events.db-wal"):
        assert folder(tmp_path)[name] == before[name]
    assert done(tmp_path, "export", extra=elsewhere(tmp_path / "copy.db")) == export


async def run(folder: Path, *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "archibald_rt", "log", *arguments),
        cwd=folder,
        env=environment(folder),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")


NAMES = ["ada", "\U0001f980", "o'b\"", None]


class Load:
    """Emitters that go on until they are told to stop, and what they were answered."""

    def __init__(self, at: Harness) -> None:
        self._at = at
        self._over = False
        self._emitters = [asyncio.ensure_future(self._emit(user)) for user in NAMES]
        self.answered: dict[str | None, list[int]] = {name: [] for name in NAMES}

    async def reached(self, count: int) -> None:
        """Wait until so many events were answered."""
        await eventually(lambda: sum(map(len, self.answered.values())) >= count)
        assert not any(each.done() for each in self._emitters)

    def so_far(self) -> dict[str | None, list[int]]:
        """Return what was answered before now."""
        return {user: list(seqs) for user, seqs in self.answered.items()}

    async def end(self) -> None:
        """Stop, with every answer in."""
        self._over = True
        await asyncio.gather(*self._emitters)

    async def _emit(self, user: str | None) -> None:
        while not self._over:
            if user is None:
                answer = await self._at.emit({"type": "T", "durable": True}, "broadcast")
                ids = [answer["id"]]
            else:
                batch = [{"userId": user, "type": "T", "payload": number} for number in range(25)]
                answer = await self._at.emit(batch)
                ids = [each["id"] for each in answer["results"]]
            self.answered[user] += [int(each.partition(":")[2]) for each in ids]


async def replayed(at: Harness, user: str, cursor: str) -> list[int]:
    """Resume by a cursor of the log that was copied; returns the seqs of all that is retained."""
    async with await at.connect(user, lastEventId=cursor) as device:
        welcome = await device.next()
        gap = await device.next()
        assert (gap["type"], gap["payload"]["reason"]) == ("rt.gap", "epoch")
        await device.until("rt.live")
        return check_chain(device.seen, welcome)


@pytest.mark.gen_test
@pytest.mark.parametrize("pruning", [False, True], ids=["as it grows", "as it is pruned"])
async def test_a_copy_made_under_load_holds_all_that_was_answered_before_it_began(
    tmp_path: Path, *, pruning: bool
) -> None:
    extra = {
        "ARCHIBALD_RT_LOG_MAX_EVENTS_PER_USER": "300" if pruning else "0",
        "ARCHIBALD_RT_LOG_PRUNE_EVERY": "10ms",
    }
    with serving(tmp_path, extra) as server:
        load = Load(Harness(server, settings_for(tmp_path)))
        await load.reached(3000)
        before = load.so_far()
        await asyncio.gather(
            run(tmp_path, "backup", "copy.db"),
            run(tmp_path, "export", "export.ndjson"),
            run(tmp_path, "check"),
        )
        await load.end()
        epoch = json.loads(done(tmp_path, "stats", "--json"))["epoch"]
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    done(tmp_path, "import", "export.ndjson", extra=elsewhere(tmp_path / "imported.db"))
    for name in ("copy.db", "imported.db"):
        there = elsewhere(tmp_path / name)
        assert done(tmp_path, "check", "--full", extra=there) == "the log is good\n"
        with serving(tmp_path, {**extra, **there, "ARCHIBALD_RT_LOG_PRUNE_EVERY": "0"}) as server:
            at = Harness(server, settings_for(tmp_path))
            for user in filter(None, NAMES):
                seqs = await replayed(at, user, f"{epoch}:5")
                for own in (user, None):
                    every = set(load.answered[own])
                    found = [seq for seq in seqs if seq in every]
                    # The oldest may have gone, but not one between two that are left.
                    first = found[0] if pruning else 0
                    assert [seq for seq in before[own] if seq >= first] == [
                        seq for seq in found if seq <= before[own][-1]
                    ]
                    assert found == sorted(found)
                assert set(seqs) <= set(load.answered[user]) | set(load.answered[None])
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
    assert partial(tmp_path) == []


def check_chain(messages: list[dict[str, Any]], welcome: dict[str, Any]) -> list[int]:
    """Check that each event names the one before it; returns their seqs."""
    before, seqs = welcome["payload"]["cursor"], []
    for message in messages:
        if "id" in message:
            assert message["prev"] == before
            before = message["id"]
            seqs.append(int(before.partition(":")[2]))
    return seqs
