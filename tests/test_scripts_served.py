"""The scripts against the server itself; `test_scripts` has their every answer, from a stand-in."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from processes import PATIENCE, ServerProcess, serving, started
from support import EMIT_TOKEN

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with serving(tmp_path) as process:
        yield process


def script(
    server: ServerProcess, name: str, *arguments: str, stdin: str = ""
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, SCRIPTS / f"{name}.py", "--url", server.internal_url, *arguments],
        env={**os.environ, "ARCHIBALD_RT_EMIT_TOKEN": EMIT_TOKEN},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def stream(folder: Path, server: ServerProcess, user: str, count: int) -> list[dict[str, Any]]:
    """Return the first durable events of a user, as a device gets them."""
    port = {"ARCHIBALD_RT_SERVER_PORT": server.public_url.rpartition(":")[2]}
    with started(folder, "tail", user, "--after", "earliest", extra=port) as tail:
        assert tail.stdout is not None
        return [json.loads(tail.stdout.readline()) for _ in range(count)]


def test_emit_event_emits_one_event(tmp_path: Path, server: ServerProcess) -> None:
    ended = script(server, "emit_event", "ada", "ORDER_SUBMITTED", '{"n": 1.0}')
    assert ended.returncode == 0, ended.stderr
    (event,) = stream(tmp_path, server, "ada", 1)
    assert (event["type"], event["payload"]) == ("ORDER_SUBMITTED", {"n": 1.0})
    refused = script(server, "emit_event", "ada", "rt.live")
    assert refused.returncode == 1
    assert "type" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_run_job_plays_a_jobs_life(tmp_path: Path, server: ServerProcess) -> None:
    for options in ([], ["--fail"]):
        ended = script(server, "run_job", "ada", "--steps", "3", "--seconds", "0.1", *options)
        assert ended.returncode == 0, ended.stderr
    types = [event["type"] for event in stream(tmp_path, server, "ada", 4)]
    assert types == ["JOB_STARTED", "JOB_COMPLETED", "JOB_STARTED", "JOB_FAILED"]


def test_emit_file_emits_every_line_in_order(tmp_path: Path, server: ServerProcess) -> None:
    lines = "".join(
        json.dumps({"userId": "ada", "type": "A", "payload": number}) + "\n" for number in range(25)
    )
    ended = script(server, "emit_file", "-", "--batch-size", "10", stdin=lines)
    assert ended.returncode == 0, ended.stderr
    payloads = [event["payload"] for event in stream(tmp_path, server, "ada", 25)]
    assert payloads == list(range(25))
    bad = script(server, "emit_file", "-", stdin='{"userId":"ada","type":"A"}\n{"userId":"ada"}\n')
    assert bad.returncode == 1
    assert "type" in bad.stderr
