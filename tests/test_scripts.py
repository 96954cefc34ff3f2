"""The scripts as programs of their own, over HTTP, against an internal listener."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

SCRIPTS = Path(__file__).parent.parent / "scripts"
TOKEN = "an-emit-token-of-more-than-32-bytes-000"
NAMES = ["emit_event", "run_job", "emit_file"]
KNOWN = {"userId", "userIds", "type", "payload", "timestamp", "durable", "key", "conflate"}


class Emissions(RequestHandler):
    """As much of the internal listener as the scripts can tell from the real one."""

    def initialize(self, server: "Server", *, broadcast: bool = False) -> None:
        self.server = server
        self.broadcast = broadcast

    def post(self) -> None:
        if self.request.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.problem(401, "Unauthorized", "the emit token is missing or wrong")
        elif self.server.busy:
            self.problem(503, "Service Unavailable", "the log can't commit:\nno space")
        elif self.request.headers["Content-Type"] == "application/x-ndjson":
            self.batch(self.request.body.decode().splitlines())
        else:
            self.one(self.request.body.decode())

    def one(self, text: str) -> None:
        if self.judge(json.loads(text), ""):
            self.write(self.accept(text))

    def batch(self, lines: list[str]) -> None:
        for index, line in enumerate(lines):
            if not self.judge(json.loads(line), f"[{index}]."):
                return
        self.server.batches.append(len(lines))
        self.write({"results": [self.accept(line) for line in lines]})

    def judge(self, emission: dict[str, Any], where: str) -> bool:
        for name in emission:
            if name not in KNOWN:
                self.problem(400, "Bad Request", "an unknown key", field=where + name)
                return False
        if str(emission["type"]).startswith("rt."):
            self.problem(400, "Bad Request", "a reserved type", field=where + "type")
            return False
        return True

    def accept(self, text: str) -> dict[str, Any]:
        emission = json.loads(text)
        duplicate = "key" in emission and emission["key"] in self.server.keys
        if not duplicate:
            self.server.received.append(emission)
            self.server.bodies.append(text)
        self.server.keys.add(emission.get("key"))
        durable = emission.get("durable", not emission["type"].endswith("_PROGRESS"))
        number = len(self.server.received)
        return {
            "id": f"e:{number}" if durable else None,
            "timestamp": "2024-05-01T12:00:00.000Z",
            "durable": durable,
            "duplicate": duplicate,
            "delivered": int(self.broadcast),
        }

    def problem(self, status: int, title: str, detail: str, **more: str) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/problem+json")
        self.finish(json.dumps({"status": status, "title": title, "detail": detail, **more}))


class Server:
    """What a test knows of the listener: where it is and what it took, in order."""

    def __init__(self) -> None:
        self.url = ""
        self.busy = False
        self.received: list[dict[str, Any]] = []
        self.bodies: list[str] = []
        self.batches: list[int] = []
        self.keys: set[str | None] = set()

    def told(self, user: str) -> list[tuple[str, Any]]:
        return [
            (emission["type"], emission.get("payload"))
            for emission in self.received
            if emission.get("userId") == user
        ]


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    listening = threading.Event()
    stop: list[Any] = []

    async def serve() -> None:
        http = HTTPServer(
            Application(
                [
                    ("/internal/emit", Emissions, {"server": server}),
                    ("/internal/broadcast", Emissions, {"server": server, "broadcast": True}),
                ],
                log_function=lambda _handler: None,
            )
        )
        listener, port = bind_unused_port()
        http.add_socket(listener)
        server.url = f"http://127.0.0.1:{port}"
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(stopping.set))
        listening.set()
        await stopping.wait()
        http.stop()
        await http.close_all_connections()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    listening.wait()
    yield server
    stop[0]()
    thread.join()


def run(
    server: Server | None, script: str, *words: str, stdin: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a script to its end; one that raises is a failure in every test."""
    base = {"PATH": os.environ["PATH"], "COLUMNS": "100", "ARCHIBALD_RT_EMIT_TOKEN": TOKEN}
    if server is not None:
        base["ARCHIBALD_RT_URL"] = server.url
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / f"{script}.py"), *words],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=base | environment,
    )
    assert "Traceback" not in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return done


def arguments(script: str, folder: Path) -> list[str]:
    """Give the words that make a script do the least it can."""
    events = folder / "events.ndjson"
    events.write_text('{"userId": "alice", "type": "ORDER"}\n')
    return {
        "emit_event": ["alice", "ORDER"],
        "run_job": ["alice", "--seconds", "0"],
        "emit_file": [str(events)],
    }[script]


# All of them


@pytest.mark.parametrize("script", NAMES)
def test_help_names_the_options_and_their_variables(script: str) -> None:
    done = run(None, script, "--help")
    assert done.returncode == 0
    for word in ("--url", "--token", "ARCHIBALD_RT_URL", "ARCHIBALD_RT_EMIT_TOKEN"):
        assert word in done.stdout


@pytest.mark.parametrize("script", NAMES)
def test_a_script_can_be_started_by_its_own_name(script: str) -> None:
    path = SCRIPTS / f"{script}.py"
    assert path.stat().st_mode & 0o111
    assert path.read_text().startswith("#!/usr/bin/env python3\n")


@pytest.mark.parametrize("script", NAMES)
def test_a_wrong_token_is_said_in_one_line(server: Server, script: str, tmp_path: Path) -> None:
    wrong = "another-token-that-the-server-does-not-know"
    done = run(server, script, "--token", wrong, *arguments(script, tmp_path))
    assert done.returncode == 1
    assert "401 Unauthorized: the emit token is missing or wrong" in done.stderr
    assert wrong not in done.stderr
    assert server.received == []


@pytest.mark.parametrize("script", NAMES)
def test_a_problem_is_shown_in_one_line(server: Server, script: str, tmp_path: Path) -> None:
    server.busy = True
    done = run(server, script, *arguments(script, tmp_path))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "503 Service Unavailable: the log can't commit: no space" in last


@pytest.mark.parametrize("script", NAMES)
def test_nobody_listening_is_said_in_one_line(script: str, tmp_path: Path) -> None:
    listener, port = bind_unused_port()
    listener.close()
    url = f"http://127.0.0.1:{port}"
    done = run(None, script, "--url", url, *arguments(script, tmp_path))
    assert done.returncode == 1
    assert f"{url} can't be reached: " in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("script", NAMES)
@pytest.mark.parametrize(
    "wrong",
    [
        ["--nonsense"],
        ["--url", "ftp://h"],
        ["--url", "127.0.0.1:8081"],
        ["--url", "http://h:99999"],
        ["--token", ""],
        ["--token", "a\nb"],
    ],
    ids=["option", "scheme", "no-scheme", "port", "no-token", "token"],
)
def test_wrong_usage_exits_with_2(script: str, wrong: list[str], tmp_path: Path) -> None:
    done = run(None, script, *wrong, *arguments(script, tmp_path))
    assert done.returncode == 2
    assert "Error: " in done.stderr


@pytest.mark.parametrize("script", NAMES)
def test_a_proxy_of_the_environment_is_not_used(
    server: Server, script: str, tmp_path: Path
) -> None:
    proxy = "http://127.0.0.1:9"
    done = run(server, script, *arguments(script, tmp_path), http_proxy=proxy, ALL_PROXY=proxy)
    assert done.returncode == 0, done.stderr


# One event


def test_emit_event_prints_the_answer(server: Server) -> None:
    done = run(server, "emit_event", "alice", "ORDER", '{"id": 7}')
    assert done.returncode == 0
    answer = json.loads(done.stdout)
    assert answer["durable"] is True
    assert answer["duplicate"] is False
    assert server.told("alice") == [("ORDER", {"id": 7})]


def test_emit_event_passes_every_option_on(server: Server) -> None:
    at = "2024-05-01T10:00:00+02:00"
    run(server, "emit_event", "alice", "A", "--durable", "--key", "k1", "--timestamp", at)
    run(server, "emit_event", "alice", "B", "1", "--transient", "--conflate", "c1")
    assert server.received == [
        {"userId": "alice", "type": "A", "durable": True, "key": "k1", "timestamp": at},
        {"userId": "alice", "type": "B", "payload": 1, "durable": False, "conflate": "c1"},
    ]


def test_emit_event_broadcasts_without_a_user(server: Server) -> None:
    done = run(server, "emit_event", "--broadcast", "NOTICE", '"maintenance"')
    assert done.returncode == 0
    assert server.received == [{"type": "NOTICE", "payload": "maintenance"}]
    assert json.loads(done.stdout)["delivered"] == 1


def test_emit_event_reads_the_payload_from_stdin(server: Server) -> None:
    done = run(server, "emit_event", "zoë", "ORDER", "-", stdin='{"note": "grüße"}\n')
    assert done.returncode == 0
    assert server.told("zoë") == [("ORDER", {"note": "grüße"})]


def test_emit_event_sends_the_payload_as_it_was_written(server: Server) -> None:
    payload = '{"n":' + "1" * 4000 + ',"f":1.50e+00,"b":{}}'
    done = run(server, "emit_event", "alice", "ORDER", payload)
    assert done.returncode == 0
    assert payload in server.bodies[-1]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["alice"],
        ["alice", "ORDER", "1", "more"],
        ["--broadcast"],
        ["--broadcast", "alice", "ORDER", "1"],
        ["alice", "ORDER", "no json"],
        ["alice", "ORDER", "NaN"],
        ["alice", "ORDER", '1, "durable": true'],
        ["alice", "ORDER", "[" * 60_000 + "]" * 60_000],
    ],
    ids=range(9),
)
def test_emit_event_refuses_wrong_words(server: Server, words: list[str]) -> None:
    assert run(server, "emit_event", *words).returncode == 2
    assert server.received == []


def test_emit_event_names_the_field_that_the_server_refused(server: Server) -> None:
    done = run(server, "emit_event", "alice", "rt.gap")
    assert done.returncode == 1
    assert done.stderr == "Error: 400 Bad Request: a reserved type (type)\n"


def test_an_output_that_can_take_nothing_is_said_in_one_line(server: Server) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, str(SCRIPTS / "emit_event.py"), "alice", "ORDER"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={"ARCHIBALD_RT_URL": server.url, "ARCHIBALD_RT_EMIT_TOKEN": TOKEN},
        )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr


# A job


def test_run_job_tells_the_whole_life_of_a_job(server: Server) -> None:
    done = run(server, "run_job", "alice", "--seconds", "0", "--steps", "4", "--job-id", "j1")
    assert done.returncode == 0
    assert done.stdout == "job j1 completed\n"
    told = server.told("alice")
    assert [kind for kind, _ in told] == [
        "JOB_STARTED",
        *["JOB_PROGRESS"] * 4,
        "JOB_COMPLETED",
    ]
    assert [payload["progress"] for _, payload in told] == [0, 25, 50, 75, 100, 100]
    assert told[2][1] == {
        "jobId": "j1",
        "operation": "submit-order",
        "progress": 50,
        "message": "step 2 of 4",
    }


def test_run_job_can_fail_half_way(server: Server) -> None:
    done = run(server, "run_job", "alice", "--seconds", "0", "--steps", "4", "--fail")
    assert done.returncode == 0
    assert done.stdout.endswith(" failed\n")
    told = server.told("alice")
    assert [kind for kind, _ in told] == ["JOB_STARTED", *["JOB_PROGRESS"] * 2, "JOB_FAILED"]
    assert told[-1][1]["progress"] == 50


def test_run_job_makes_an_id_of_its_own_each_time(server: Server) -> None:
    for _ in range(2):
        run(server, "run_job", "alice", "--seconds", "0", "--steps", "1")
    assert len({payload["jobId"] for _, payload in server.told("alice")}) == 2


def test_run_job_takes_an_operation_that_looks_like_markup(server: Server) -> None:
    done = run(server, "run_job", "alice", "--seconds", "0", "--operation", "[/b][red]x")
    assert done.returncode == 0
    assert server.told("alice")[0][1]["operation"] == "[/b][red]x"


# A file


def an_events_file(folder: Path, count: int, **more: str) -> Path:
    lines = [
        json.dumps({"userId": "alice", "type": "ORDER", "payload": number} | more)
        for number in range(count)
    ]
    path = folder / "events.ndjson"
    path.write_text("\n".join(lines) + "\n\n")
    return path


def test_emit_file_posts_all_lines_in_order_in_batches(server: Server, tmp_path: Path) -> None:
    done = run(server, "emit_file", str(an_events_file(tmp_path, 25)), "--batch-size", "10")
    assert done.returncode == 0
    assert done.stdout == "25 events emitted, 0 of them duplicates\n"
    assert server.batches == [10, 10, 5]
    assert server.told("alice") == [("ORDER", number) for number in range(25)]


def test_emit_file_reads_stdin(server: Server) -> None:
    lines = '{"userId": "alice", "type": "A"}\r\n\n{"userId": "alice", "type": "B"}'
    done = run(server, "emit_file", "-", stdin=lines)
    assert done.returncode == 0
    assert server.told("alice") == [("A", None), ("B", None)]


def test_emit_file_counts_duplicates(server: Server, tmp_path: Path) -> None:
    done = run(server, "emit_file", str(an_events_file(tmp_path, 3, key="same")))
    assert done.stdout == "3 events emitted, 2 of them duplicates\n"
    assert len(server.received) == 1


def test_emit_file_with_nothing_in_it_emits_nothing(server: Server, tmp_path: Path) -> None:
    done = run(server, "emit_file", str(an_events_file(tmp_path, 0)))
    assert done.returncode == 0
    assert done.stdout == "0 events emitted, 0 of them duplicates\n"
    assert server.batches == []


def test_emit_file_names_the_line_that_was_refused(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    good, bad = '{"userId": "alice", "type": "A"}', '{"userId": "alice", "type": "rt.x"}'
    path.write_text(f"{good}\n{good}\n\n{good}\n{bad}\n{good}")
    done = run(server, "emit_file", str(path), "--batch-size", "2")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "Error: lines 4-5, line 5: 400 Bad Request: a reserved type ([1].type); 2 emitted before"
    )
    assert len(server.received) == 2


def test_emit_file_keeps_a_batch_within_what_a_request_may_hold(
    server: Server, tmp_path: Path
) -> None:
    path = an_events_file(tmp_path, 3, payload="x" * 5_000_000)
    done = run(server, "emit_file", str(path))
    assert done.returncode == 0
    assert server.batches == [1, 1, 1]


@pytest.mark.parametrize(
    "words",
    [[], ["missing.ndjson"], ["-", "--batch-size", "0"], ["-", "--batch-size", "10001"]],
    ids=["no-file", "missing", "too-small", "too-big"],
)
def test_emit_file_refuses_wrong_words(server: Server, words: list[str]) -> None:
    assert run(server, "emit_file", *words).returncode == 2


def test_emit_file_says_in_one_line_what_can_not_be_read(server: Server, tmp_path: Path) -> None:
    done = run(server, "emit_file", str(tmp_path))
    assert done.returncode in (1, 2)
    assert "Is a directory" in done.stderr


def audited(
    tmp_path: Path, *packages: Any, required: str = ""
) -> "subprocess.CompletedProcess[str]":
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"dependencies": packages, "fixes": []}))
    return subprocess.run(
        [sys.executable, SCRIPTS / "audit.py", "--report", report],
        env={**os.environ, "AUDIT_REQUIRED": required},
        capture_output=True,
        text=True,
        check=False,
    )


SOUND = {"name": "sound", "version": "1.0", "vulns": []}
UNKNOWN = {"name": "unknown", "skip_reason": "not found"}
VULNERABLE = {
    "name": "weak",
    "version": "1.1",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.2"], "aliases": [], "description": ""}],
}


def test_an_audit_fails_for_what_is_known_and_says_what_mends_it(tmp_path: Path) -> None:
    assert audited(tmp_path, SOUND).returncode == 0
    ended = audited(tmp_path, SOUND, VULNERABLE, UNKNOWN)
    assert ended.returncode == 1
    assert "audit: weak 1.1: PYSEC-1, mended in 1.2\n" in ended.stderr


def test_an_audit_of_what_nobody_knows_says_so_and_fails_only_where_it_is_required(
    tmp_path: Path,
) -> None:
    ended = audited(tmp_path, SOUND, UNKNOWN)
    assert ended.returncode == 0
    assert "could NOT be asked for (unknown)" in ended.stderr
    assert audited(tmp_path, SOUND, UNKNOWN, required="1").returncode == 1


def test_an_audit_asks_for_what_the_project_brings_along() -> None:
    listed = subprocess.run(
        [
            sys.executable,
            "-c",
            "import audit, json; print(json.dumps(audit.needed(audit.PROJECT)))",
        ],
        cwd=SCRIPTS,
        capture_output=True,
        text=True,
        check=True,
    )
    packages = json.loads(listed.stdout)
    # The second comes by an extra of the first, the third by the test extra, the last by that.
    assert {"pyjwt", "cryptography", "pytest", "pluggy"} <= set(packages)
    assert "archibald-rt" not in packages
