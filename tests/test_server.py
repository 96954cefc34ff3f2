"""The server's life, in this process and as one of its own."""

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import sqlite3
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from archibald_rt import timestamps
from archibald_rt.errors import ConfigError, ListenError, LogOpenError
from archibald_rt.server import node_of, running
from processes import ServerProcess, serving
from support import (
    EMIT_TOKEN,
    SECRET,
    SUBPROTOCOL,
    Harness,
    eventually,
    harness,
    settings_for,
    token,
)


async def post_by_path(path: Path, body: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(
        b"POST /internal/emit HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Connection: close\r\nAuthorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b"
        % (EMIT_TOKEN.encode(), len(body), body)
    )
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.gen_test
async def test_the_internal_listener_can_be_a_unix_socket_with_a_mode(tmp_path: Path) -> None:
    path = tmp_path / "internal.sock"
    overrides = {"internal.unix_socket": str(path), "internal.unix_socket_mode": "0600"}
    async with harness(tmp_path, overrides) as server:
        assert path.stat().st_mode & 0o777 == 0o600
        assert server.server.internal_url == f"unix:{path}"
        answer = await post_by_path(path, b'{"userId":"u","type":"A"}')
        assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.gen_test
async def test_nothing_internal_is_routed_on_the_public_listener(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        for path in ("/internal/stats", "/internal/connections", "/internal/emit", "/nothing"):
            assert (await server.get(path, public=True)).code == 404
        for path in ("/ws/realtime", "/healthz"):
            assert (await server.get(path)).code == 404


@pytest.mark.gen_test
async def test_it_does_not_start_without_secrets_or_on_what_is_taken(tmp_path: Path) -> None:
    for key in ("auth.jwt_secret", "internal.emit_tokens"):
        with pytest.raises(ConfigError):
            async with running(settings_for(tmp_path, {key: ""})):
                pass
        with pytest.raises(ConfigError):
            async with running(settings_for(tmp_path, {key: "short"})):
                pass
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(ListenError, match=port):
            async with running(settings_for(tmp_path, {"server.port": port})):
                pass
    async with harness(tmp_path):
        with pytest.raises(LogOpenError, match="another server"):
            async with running(settings_for(tmp_path)):
                pass


@pytest.mark.gen_test
async def test_a_log_that_cannot_commit_refuses_and_recovers_by_itself(tmp_path: Path) -> None:
    async with harness(tmp_path) as server, await server.connect("u") as device:
        await device.until("rt.live")
        assert (await server.get("/readyz", public=True)).code == 200
        other = sqlite3.connect(tmp_path / "events.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        refused = await server.post("/internal/emit", b'{"userId":"u","type":"REFUSED"}')
        assert refused.code == 503
        assert "Retry-After" in refused.headers
        ready = await server.get("/readyz", public=True)
        assert ready.code == 503
        assert "commit" in json.loads(ready.body)["detail"]
        assert (await server.get("/healthz", public=True)).code == 200
        assert (await server.emit({"userId": "u", "type": "JOB_PROGRESS"}))["delivered"] == 1
        other.execute("ROLLBACK")
        other.close()

        async def is_ready() -> bool:
            return (await server.get("/readyz", public=True)).code == 200

        await eventually(is_ready)
        await server.emit({"userId": "u", "type": "SENTINEL"})
        assert [m["type"] for m in await device.take(2)] == ["JOB_PROGRESS", "SENTINEL"]


@pytest.mark.gen_test
async def test_the_health_of_the_websockets_is_for_admins(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        path = "/api/websocket/health"
        for bearer, code in (
            (None, 401),
            ("bad", 401),
            (token("u"), 403),
            (token("u", role="user"), 403),
            (token("u", role=["user"]), 403),
            (token("u", role=["user", "admin"]), 200),
        ):
            assert (await server.get(path, bearer=bearer, public=True)).code == code
        admin = token("boss", role="admin")
        idle = json.loads((await server.get(path, bearer=admin, public=True)).body)
        assert (idle["success"], idle["status"]) == (True, "idle")
        async with await server.connect("u", lastEventId="earliest") as device:
            await device.until("rt.live")
            await device.send("ping")
            assert await device.text() == "pong"
            await server.emit({"userId": "u", "type": "A"})
            health = json.loads((await server.get(path, bearer=admin, public=True)).body)
            assert health["status"] == "healthy"
            stats = health["stats"]
            assert stats.pop("uptime") >= 0
            assert stats.pop("averageLatency") >= 0
            assert stats == {
                "totalConnections": 1,
                "activeUsers": 1,
                "reconnectionCount": 1,
                "messagesSent": 1,
                "messagesReceived": 1,
                "connectionsPerUser": {"u": 1},
            }


@pytest.mark.gen_test
async def test_connections_are_listed_for_those_with_a_read_token(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        async with await server.connect("u") as device:
            welcome = await device.next()
            response = await server.get("/internal/connections")
            (connection,) = json.loads(response.body)["connections"]
            assert connection["connection"] == welcome["payload"]["connection"]
            assert connection["userId"] == "u"
            assert connection["protocol"] == "v2"
            assert connection["state"] == "live"
        for path in ("/internal/connections", "/internal/stats"):
            assert (await server.get(path, bearer=None)).code == 401


def test_out_of_descriptors_it_pauses_and_goes_on_when_there_are_some(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving(tmp_path) as server:
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (64, hard))
        address = urlsplit(server.public_url)
        with contextlib.ExitStack() as open_ones:
            for _ in range(70):
                open_ones.enter_context(socket.create_connection((address.hostname, address.port)))
            assert server.line("can't accept, pausing")["seconds"] == 1
        with socket.create_connection((address.hostname, address.port)) as another:
            another.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert another.recv(4096).startswith(b"HTTP/1.1 200")
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (soft, hard))
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "Traceback" not in server.rest()


def test_no_token_and_no_secret_is_in_any_log_line(tmp_path: Path) -> None:
    good, bad = token("u"), token("u", secret="another-secret-of-at-least-thirty-two-bytes")
    with serving(tmp_path, {"ARCHIBALD_RT_LOGGING_LEVEL": "debug"}) as server:
        asyncio.run(_use_every_token(server, good, bad))
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        logged = server.rest() + json.dumps(server.lines)
    assert '"path": "/ws/realtime"' in logged
    for secret in (good, bad, SECRET, EMIT_TOKEN, good.rpartition(".")[2], "sesame"):
        assert secret not in logged
    assert "Traceback" not in logged


async def _use_every_token(process: ServerProcess, good: str, bad: str) -> None:
    server = Harness(process, settings_for(Path()))
    for text in (good, bad, "sesame"):
        for device in (
            await server.open({"token": text}),
            await server.open({}, headers={"Authorization": f"Bearer {text}"}),
            await server.open({}, subprotocols=[SUBPROTOCOL, f"bearer.{text}"]),
        ):
            await device.close()
        async with await server.open({"token": good}) as device:
            await device.send(json.dumps({"type": "rt.auth", "payload": {"token": text}}))
        await server.get(f"/api/websocket/health?token={text}", bearer=text, public=True)
        await server.get(f"/nothing?token={text}", bearer=text, public=True)
        await server.post("/internal/emit", b'{"userId":"u","type":"A"}', bearer=text)
    await server.post("/internal/emit", b"{nonsense")
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", int(server.server.public_url.rpartition(":")[2])
    )
    writer.write(f"GET /ws/realtime?token={good} HTTP/1.1\nbroken\n\n".encode())
    await reader.read()
    writer.close()


@pytest.mark.gen_test
async def test_stamps_do_not_go_back_when_the_clock_was_set_back_over_a_restart(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path) as server:
        await server.emit({"userId": "u", "type": "A"})
    ahead = int((time.time() + 3600) * 1000)
    with contextlib.closing(sqlite3.connect(tmp_path / "events.db")) as log, log:
        log.execute("UPDATE commits SET committed = ?", (ahead,))
    async with harness(tmp_path) as server:
        stamp = (await server.emit({"userId": "u", "type": "A"}))["timestamp"]
        assert timestamps.parse(stamp) == ahead * 1_000_000


@pytest.mark.gen_test
async def test_a_log_is_one_log_by_whatever_link_it_is_named(tmp_path: Path) -> None:
    async with harness(tmp_path):
        (tmp_path / "link.db").symlink_to(tmp_path / "events.db")
        linked = settings_for(tmp_path, {"log.path": str(tmp_path / "link.db")})
        with pytest.raises(LogOpenError, match="another server"):
            async with running(linked):
                pass


@pytest.mark.gen_test
async def test_a_unix_socket_in_use_is_not_taken_over_but_a_dead_ones_is(tmp_path: Path) -> None:
    path = str(tmp_path / "internal.sock")
    other = tmp_path / "other"
    async with harness(tmp_path, {"internal.unix_socket": path}):
        with pytest.raises(ListenError, match="in use"):
            async with harness(other, {"internal.unix_socket": path}):
                pass
    async with harness(other, {"internal.unix_socket": path}):
        answer = await post_by_path(Path(path), b'{"userId":"u","type":"A"}')
        assert answer.startswith(b"HTTP/1.1 200")


def test_a_node_has_the_name_that_it_is_given_or_one_by_which_it_is_found(tmp_path: Path) -> None:
    host, own = socket.gethostname(), os.getpid()
    by_settings: tuple[tuple[dict[str, str], str], ...] = (
        ({"nats.node": "rt1", "server.port": "8080"}, "rt1"),
        ({"server.port": "8080"}, f"{host}:8080"),
        ({"server.port": "0"}, f"{host}:{own}"),
        ({"server.port": "8080", "server.unix_socket": str(tmp_path / "s")}, f"{host}:{own}"),
    )
    for overrides, name in by_settings:
        assert node_of(settings_for(tmp_path, overrides)) == name
