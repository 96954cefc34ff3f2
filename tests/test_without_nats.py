"""The default install: a server and its commands where nothing of NATS can be imported."""

import http.client
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from processes import PATIENCE, ServerProcess, environment
from support import EMIT_TOKEN, handshake, token

# Runs a command to its end and then writes what it imported. None is a module that isn't there.
PROGRAM = """
import atexit, json, pathlib, sys
sys.modules["nats"] = None
def write():
    pathlib.Path("imported").write_text(json.dumps(sorted(sys.modules)))
atexit.register(write)
from archibald_rt.cli import main
main()
"""
LIFE = [
    ("POST", "/internal/emit", b'{"userId":"ada","type":"JOB_STARTED"}'),
    ("POST", "/internal/emit", b'{"userId":"ada","type":"JOB_PROGRESS"}'),
    ("POST", "/internal/broadcast", b'{"type":"NEWS","durable":true,"key":"once"}'),
    ("GET", "/internal/users/ada/events", None),
    ("GET", "/internal/stats", None),
    ("GET", "/internal/connections", None),
    ("GET", "/metrics", None),
    ("POST", "/internal/users/bob/disconnect", b'{"revokeBefore":"2026-01-01T00:00:00Z"}'),
    ("DELETE", "/internal/users/bob/events", None),
]


def without_nats(*arguments: str) -> list[str]:
    """Return the command line of ``archibald-rt`` where there is no NATS."""
    return [sys.executable, "-W", "error", "-c", PROGRAM, *arguments]


def of_nats(imported: Path) -> list[str]:
    """Return what of NATS is among the modules that were imported."""
    names: list[str] = json.loads(imported.read_text())
    assert "archibald_rt.eventlog" in names
    return [
        name
        for name in names
        if name.startswith(("nats.", "archibald_rt.eventlog.nats")) and name != "nats"
    ]


def status(url: str, method: str, path: str, body: bytes | None) -> int:
    """Ask the internal listener for something."""
    address = urlsplit(url)
    headers = {"Authorization": f"Bearer {EMIT_TOKEN}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a server that has lived its whole life."""
    folder = tmp_path_factory.mktemp("lived")
    with subprocess.Popen(
        without_nats("serve"),
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            server = ServerProcess(process)
            address = urlsplit(server.public_url)
            with socket.create_connection((address.hostname, address.port), PATIENCE) as device:
                device.sendall(handshake(token("ada")))
                assert device.recv(4096).startswith(b"HTTP/1.1 101")
                for asked in LIFE:
                    assert status(server.internal_url, *asked) == 200, asked
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
            server.check_log()
        finally:
            process.kill()
    (folder / "imported").rename(folder / "imported by the server")
    return folder


def test_a_server_imports_nothing_of_it_in_its_whole_life(lived: Path) -> None:
    assert of_nats(lived / "imported by the server") == []


@pytest.mark.parametrize(
    "arguments",
    [("config", "show"), ("log", "stats"), ("log", "check"), ("log", "export", "events.ndjson")],
    ids=" ".join,
)
def test_a_command_imports_nothing_of_it(arguments: Sequence[str], lived: Path) -> None:
    done = subprocess.run(
        without_nats(*arguments),
        cwd=lived,
        env=environment(lived),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert of_nats(lived / "imported") == []
