"""The OpenAPI document against a server: schemathesis asks for all it allows, and for more.

No answer may be a fault, have a status that isn't described, or a body of another form; what
breaks its schema is refused, and what keeps it is not. ``PROPERTY_EFFORT=10`` tries ten times as
much; where ``CI`` is set the seed is always the same.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from archibald_rt.tap import WATCHERS
from described import OPENAPI
from processes import PATIENCE, ServerProcess, serving
from support import EMIT_TOKEN, handshake, token

pytestmark = pytest.mark.long

HERE = Path(__file__).parent
EFFORT = float(os.environ.get("PROPERTY_EFFORT", "1"))
EXAMPLES = 100
"""How many cases each operation gets at most in each of the phases that make them at random."""


@contextmanager
def connected(process: ServerProcess) -> Iterator[None]:
    """Have a device connected for the length of a block."""
    at = urlsplit(process.public_url)
    with socket.create_connection((at.hostname, at.port), timeout=PATIENCE) as device:
        device.sendall(handshake(token("v")))
        assert device.recv(4096).startswith(b"HTTP/1.1 101 ")
        yield


def refused_to_watch(line: dict[str, Any]) -> bool:
    """Whether a log line is of one who was not to watch."""
    return bool(line.get("path") == "/internal/stream" and line.get("status") == 503)


@contextmanager
def watched(process: ServerProcess) -> Iterator[None]:
    """Have as many watch all traffic as may for the length of a block."""
    at = urlsplit(process.internal_url)
    head = f"GET /internal/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {EMIT_TOKEN}\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(WATCHERS):
            watcher = socket.create_connection((at.hostname, at.port), timeout=PATIENCE)
            stack.enter_context(watcher)
            watcher.sendall(head.encode())
            assert watcher.recv(4096).startswith(b"HTTP/1.1 200 ")
        yield


@pytest.mark.parametrize(
    ("listener", "bearer"), [("internal", EMIT_TOKEN), ("public", token("u", role="admin"))]
)
def test_the_server_answers_as_the_document_says(
    listener: str, bearer: str, tmp_path: Path, report: Callable[[str], None]
) -> None:
    seed = ["--seed", "1"] if "CI" in os.environ else []
    # One is connected, so that all others are told at once to come back later: a stream would
    # never end by itself. It answers no ping.
    full = {"ARCHIBALD_RT_SERVER_MAX_CONNECTIONS": "1", "ARCHIBALD_RT_DELIVERY_HEARTBEAT": "0"}
    with serving(tmp_path, full) as process:
        process.follow()
        url = process.internal_url if listener == "internal" else process.public_url
        with connected(process), watched(process):
            ended = subprocess.run(
                [
                    *(sys.executable, "-m", "schemathesis.cli"),
                    *("--config-file", HERE / "schemathesis.toml", "run"),
                    *(
                        HERE.parent / "docs" / "openapi.json",
                        "--include-tag",
                        listener,
                        "--url",
                        url,
                    ),
                    *("--header", f"Authorization: Bearer {bearer}"),
                    *("--max-examples", str(round(EXAMPLES * EFFORT)), *seed),
                    *("--continue-on-failure", "--no-color", "--generation-database", "none"),
                    *("--report", "json", "--report-json-path", tmp_path / "report.json"),
                ],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            )
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        process.check_log(expected=refused_to_watch)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads((tmp_path / "report.json").read_text())
    operations, cases = found["operations"], found["test_cases"]
    described = [
        operation
        for item in OPENAPI["paths"].values()
        for method, operation in item.items()
        if method != "servers" and listener in operation["tags"]
    ]
    assert operations["tested"] == len(described)
    assert cases["with_failures"] == 0
    assert cases["generated"] >= 25 * len(described)
    report(
        f"schemathesis, {listener} listener: {cases['generated']} cases of {len(described)} "
        f"operations in {found['running_time']:.0f} s"
    )
