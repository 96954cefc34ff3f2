"""The requests of both listeners, named, logged and counted: ``requestlog``."""

import asyncio
import json
from pathlib import Path

import pytest
from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

from archibald_rt.requestlog import RequestLog
from eventstreams import listen
from logged import logged
from support import Harness, harness, problem_of, token

OPAQUE = "an-emit-token-that-is-no-jwt"
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def _raw(at: Harness, request: bytes) -> tuple[bytes, bytes]:
    """Send bytes to the internal listener; return the head and the body of what comes back."""
    host, port = at.server.internal_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


@pytest.mark.gen_test
async def test_every_answer_names_the_request_and_so_does_every_problem(tmp_path: Path) -> None:
    async with harness(tmp_path) as at:
        emitted = await at.post(
            "/internal/emit", b'{"userId":"u","type":"A"}', X_Request_Id="mine-1"
        )
        assert (emitted.code, emitted.headers["X-Request-Id"]) == (200, "mine-1")
        refused = await at.post("/internal/emit", b"{}", traceparent=PARENT)
        assert refused.headers["X-Request-Id"] == PARENT[3:35] == problem_of(refused)["requestId"]
        for path, public in (("/readyz", True), ("/nothing", True), ("/internal/stats", False)):
            answer = await at.get(path, public=public)
            assert answer.headers["X-Request-Id"]
        for answer in (
            await at.get("/nothing", public=True),
            await at.get("/nothing"),
            await at.get("/internal/stats", bearer=None),
            await at.get("/ws/realtime", public=True),
            await at.post("/internal/stats", b"{}"),
        ):
            assert problem_of(answer)["requestId"] == answer.headers["X-Request-Id"]
        async with await at.connect("u") as device:
            assert "X-Request-Id" in (device.socket.headers or {})
        async with await listen(at, "u") as stream:
            assert stream.head["X-Request-Id"]
        head, body = await _raw(at, b"GET / HTTP/1.1\nHost: x\r\n\r\n")
        assert f"X-Request-Id: {json.loads(body)['requestId']}".encode() in head


@pytest.mark.gen_test
async def test_what_a_request_has_logged_has_its_id(tmp_path: Path) -> None:
    revoked = b'{"jti":"x","expires":"2026-01-01T00:00:00Z"}'
    async with harness(tmp_path) as at:
        with logged("info") as lines:
            async with await at.open({"token": "wrong"}, headers={"X-Request-Id": "r-1"}) as device:
                await device.closed()
            url = f"{at.server.public_url}/api/websocket/health"
            await AsyncHTTPClient().fetch(url, headers={"X-Request-Id": "r-2"}, raise_error=False)
            await at.post("/internal/users/ada/disconnect", b"{}", X_Request_Id="r-3")
            await at.post("/internal/tokens/revoke", revoked, X_Request_Id="r-4")
            found = {each["request_id"]: each["event"] for each in lines.entries()}
    assert found == {
        "r-1": "device refused",
        "r-2": "health refused",
        "r-3": "user disconnected",
        "r-4": "token revoked",
    }


@pytest.mark.gen_test
async def test_an_id_with_a_line_break_or_a_token_gets_nowhere(tmp_path: Path) -> None:
    async with harness(tmp_path) as at:
        with logged() as lines:
            secret = token("u")
            answer = await at.get("/nothing", bearer=None)
            head, _ = await _raw(
                at,
                b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-Id: "
                + f"{secret}\r\n\r\n".encode(),
            )
            assert b"401" in head.splitlines()[0]
            assert answer.code == 401
            assert len(lines.entries(event="request", path="/nothing")) == 2
            assert secret.split(".")[1] not in lines.text


@pytest.mark.gen_test
async def test_requests_are_logged_with_their_id_and_without_their_query(tmp_path: Path) -> None:
    async with harness(tmp_path) as at:
        with logged() as lines:
            await at.get(f"/internal/stats?token={OPAQUE}")
            await at.post("/internal/emit", b"{}", X_Request_Id="mine-2", traceparent=PARENT)
            stats, emission = lines.entries(event="request")
            assert OPAQUE not in lines.text
    assert stats["ms"] >= 0
    assert (stats["level"], stats["logger"]) == ("debug", "archibald_rt.access")
    assert (stats["method"], stats["path"], stats["status"]) == ("GET", "/internal/stats", 200)
    assert (stats["address"], "trace_id" in stats) == ("127.0.0.1", False)
    assert (emission["status"], emission["request_id"]) == (400, "mine-2")
    assert emission["trace_id"] == PARENT[3:35]


class Answering(RequestHandler):
    def get(self) -> None:
        self.set_status(int(self.get_argument("status")))
        self.finish("x")


@pytest.mark.gen_test
@pytest.mark.parametrize(("status", "level"), [(200, "debug"), (404, "debug"), (503, "error")])
async def test_only_what_the_server_failed_at_is_an_error(status: int, level: str) -> None:
    requests = RequestLog()
    requests.know({"/some": Answering}, {})
    sock, port = bind_unused_port()
    server = HTTPServer(Application([("/.*", Answering)], log_function=requests))
    server.add_socket(sock)
    with logged() as lines:
        for path in ("some", "other/7", "other/8"):
            url = f"http://127.0.0.1:{port}/{path}?status={status}"
            await AsyncHTTPClient().fetch(url, raise_error=False)
        server.stop()
        await server.close_all_connections()
        assert [each["level"] for each in lines.entries(event="request")] == [level] * 3
    assert requests.answered == {("/some", status): 1, ("other", status): 2}
