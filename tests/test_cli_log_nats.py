"""``archibald-rt log`` for a log in JetStream, and the move there as docs/scale-out.md has it."""

import json
import re
import shlex
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from archibald_rt.eventlog.nats.remote import Where
from logcommands import begun, done, refused
from logfiles import append, emission, users
from natslogs import events, exported, gone_after, somewhere, streams
from natsservers import NatsServer, nats_server
from processes import PATIENCE, ServerProcess, command, serving, wait_until
from support import Harness, settings_for

PAGE = Path(__file__).parent.parent / "docs" / "scale-out.md"


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
    """Return where `command` has the SQLite log of this test."""
    return tmp_path / "events.db"


@pytest.fixture
def there(where: Where) -> Mapping[str, str]:
    """Return the environment of a command for a log in a stream."""
    return {
        "ARCHIBALD_RT_LOG_ENGINE": "nats",
        "ARCHIBALD_RT_NATS_SERVERS": where.servers[0],
        "ARCHIBALD_RT_NATS_STREAM": where.stream,
    }


def until_unfinished(where: Where) -> None:
    """Wait until there is a stream that is imported into."""
    wait_until(lambda: len(streams(where)) >= 2)


def test_a_log_goes_through_a_pipe_to_a_stream_and_back(
    tmp_path: Path, path: Path, there: Mapping[str, str]
) -> None:
    append(path, emission("u", '{"a":1.00}', key="k"), *users("\U0001f980", None))
    export = done(tmp_path, "export")
    printed = done(tmp_path, "import", stdin=export.encode(), extra=there)
    epoch = printed.split()[-1]
    assert printed == f"3 events, up to seq 4, under the new epoch {epoch}\n"
    said = done(tmp_path, "export", "there.ndjson", extra=there)
    assert said == "3 events, up to seq 4, in there.ndjson\n"
    assert (tmp_path / "there.ndjson").stat().st_mode & 0o777 == 0o600
    again = (tmp_path / "there.ndjson").read_text()
    back = {"ARCHIBALD_RT_LOG_PATH": str(tmp_path / "back.db")}
    done(tmp_path, "import", "there.ndjson", extra=back)
    final = done(tmp_path, "export", extra=back)
    assert final.splitlines()[1:] == again.splitlines()[1:]
    without_seqs = [re.sub('"seq":[0-9]+', "", each) for each in again.splitlines()[1:]]
    assert without_seqs == [re.sub('"seq":[0-9]+', "", each) for each in export.splitlines()[1:]]
    assert done(tmp_path, "check", "--full", extra=there) == "the log is good\n"
    figures = json.loads(done(tmp_path, "stats", "--json", extra=there))
    assert (figures["epoch"], figures["events"], figures["users"]) == (epoch, 3, 2)
    assert figures["oldestCommit"].endswith("Z")
    shown = dict(
        line.split(maxsplit=1) for line in done(tmp_path, "stats", extra=there).splitlines()
    )
    assert shown == {name: str(value) for name, value in figures.items()}


@pytest.mark.parametrize(
    ("arguments", "instead"),
    [(("prune",), "nats stream edit"), (("backup", "x"), "log export"), (("new-epoch",), "import")],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_a_stream_can_not_have_says_what_there_is_instead(
    tmp_path: Path, there: Mapping[str, str], arguments: tuple[str, ...], instead: str
) -> None:
    line = refused(tmp_path, *arguments, code=2, extra=there)
    assert f"[log] engine: {arguments[0]} is not for nats: " in line
    assert instead in line
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", ["stats", "check", "export"])
def test_without_a_stream_a_command_makes_none_and_says_so(
    tmp_path: Path, where: Where, there: Mapping[str, str], name: str
) -> None:
    line = refused(tmp_path, name, extra=there)
    assert line == f"archibald-rt: [nats] stream {where.stream}: there is no such stream"
    assert streams(where) == {}


def test_without_nats_it_is_one_line(tmp_path: Path, there: Mapping[str, str]) -> None:
    nowhere = {**there, "ARCHIBALD_RT_NATS_SERVERS": "nats://127.0.0.1:1"}
    assert "none of them could be reached" in refused(tmp_path, "stats", extra=nowhere)


def test_an_import_that_is_killed_leaves_no_log_and_nothing_in_the_way(
    tmp_path: Path, path: Path, where: Where, there: Mapping[str, str]
) -> None:
    append(path, *users(*"uvwxyz" * 1000))
    export = done(tmp_path, "export").encode()
    with begun(tmp_path, "import", extra=there) as process:
        assert process.stdin is not None
        process.stdin.write(export[: len(export) // 2])
        process.stdin.flush()
        wait_until(lambda: streams(where).get(where.stream, {}).get("messages"))
        # As long as it is there nobody else begins.
        another = refused(tmp_path, "import", stdin=export, extra=there)
        assert another.endswith(": another import into it is under way")
        process.kill()
        process.wait(PATIENCE)
    begun_but = "an import into it is under way, or was broken off and has to be begun again"
    assert 0 < streams(where)[where.stream]["messages"] < 6000
    assert begun_but in refused(tmp_path, "export", extra=there)
    ended = command(tmp_path, "serve", extra=there)
    assert ended.returncode == 1
    assert begun_but in ended.stderr
    assert done(tmp_path, "import", stdin=export, extra=there).startswith("6000 events, ")
    assert len(events(exported(where))) == 6001


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_import_that_is_interrupted_leaves_nothing(
    tmp_path: Path, where: Where, there: Mapping[str, str], number: signal.Signals
) -> None:
    with begun(tmp_path, "import", extra=there) as process:
        until_unfinished(where)
        process.send_signal(number)
        assert process.wait(PATIENCE) == 1
        assert process.stderr is not None
        assert process.stderr.read().strip() == b""
    assert streams(where) == {}


def test_an_import_that_loses_nats_is_one_line_and_no_log(
    tmp_path: Path, path: Path, server: NatsServer, where: Where, there: Mapping[str, str]
) -> None:
    append(path, *users(*"uv"))
    export = done(tmp_path, "export").encode()
    with begun(tmp_path, "import", extra=there) as process:
        until_unfinished(where)
        server.kill()
        assert process.stdin is not None
        process.stdin.write(export)
        process.stdin.close()
        assert process.wait(PATIENCE) == 1
        assert process.stderr is not None
        (line,) = process.stderr.read().decode().splitlines()
    assert line.startswith("archibald-rt: ")
    server.start()
    assert "was broken off" in refused(tmp_path, "export", extra=there)
    done(tmp_path, "import", stdin=export, extra=there)


# The page


def block(language: str, after: str) -> str:
    """Return the first block in a language that the page has after a heading."""
    found = re.search(f"```{language}\n(.*?)```", PAGE.read_text().partition(after)[2], re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.gen_test(timeout=120)
async def test_the_move_goes_as_the_page_has_it(tmp_path: Path, where: Where) -> None:
    (tmp_path / "config.ini").write_text("[log]\nengine = sqlite\n")
    (tmp_path / "nats.ini").write_text(block("ini", "## Setting it up"))
    # The page's servers and replicas are three.
    here = {
        "ARCHIBALD_RT_NATS_SERVERS": where.servers[0],
        "ARCHIBALD_RT_NATS_STREAM": where.stream,
        "ARCHIBALD_RT_NATS_REPLICAS": "1",
    }
    emissions = [{"userId": "u", "type": "T", "payload": n, "key": f"k{n}"} for n in range(3)]
    with ExitStack() as stack:

        def start() -> tuple[ServerProcess, Harness]:
            process = stack.enter_context(serving(tmp_path, here))
            return process, Harness(process, settings_for(tmp_path))

        process, server = start()
        device = await server.connect("u")
        await device.take(2)
        for each in emissions:
            await server.emit(each)
        cursor = (await device.take(3))[1]["id"]
        run: list[str] = []
        for line in block("sh", "## Moving a log").splitlines():
            words = shlex.split(line)
            run.append(words[0])
            if words[:2] == ["systemctl", "stop"]:
                process.signal(signal.SIGTERM)
                assert (await device.until("rt.reconnect"))["payload"]["afterMs"] >= 0
                assert (await device.closed())[0] == 1001
                await device.close()
                assert process.wait() == 0
            elif words[:2] == ["systemctl", "start"]:
                process, server = start()
            elif words[0] == "archibald-rt":
                ended = command(tmp_path, *words[1:], extra=here)
                assert (ended.returncode, ended.stderr) == (0, ""), line
            else:
                assert words[0] == "mv", line
                (tmp_path / words[1]).rename(tmp_path / words[2])
        assert run.count("archibald-rt") == 5
        device = await server.connect("u", lastEventId=cursor)
        welcome, gap, *events, live = await device.take(6)
        assert (welcome["type"], gap["type"], live["type"]) == ("rt.welcome", "rt.gap", "rt.live")
        assert (gap["payload"]["requested"], gap["payload"]["reason"]) == (cursor, "epoch")
        assert [each["payload"] for each in events] == [0, 1, 2]
        await device.close()
        # Told once: by what it has now it is not told again.
        device = await server.connect("u", lastEventId=events[1]["id"])
        assert [each.get("payload") for each in (await device.take(3))[1:2]] == [2]
        assert [each["type"] for each in device.seen] == ["rt.welcome", "T", "rt.live"]
        again = await server.emit(emissions[0])
        assert (again["duplicate"], again["id"]) == (True, events[0]["id"])
        await server.emit({**emissions[0], "key": "new"})
        assert (await device.next())["payload"] == 0
        await device.close()
