"""Whatever a client or an emitter sends: no traceback, nobody else harmed, nothing left behind."""

import asyncio
import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processes import ServerProcess, serving
from support import EMIT_TOKEN, Harness, eventually, settings_for, token

MANY = settings(max_examples=150, deadline=None, derandomize=True)

HANDSHAKE = (
    b"GET /ws/realtime?token=%b HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n%b\r\n"
)
PROTOCOLS = [b"", b"Sec-WebSocket-Protocol: archibald.v2\r\n"]

frames = st.builds(
    lambda first, mask, size, data: bytes((first, mask | size)) + bytes(4) + data,
    st.integers(0, 255),
    st.sampled_from([0, 0x80]),
    st.integers(0, 127),
    st.binary(max_size=200),
)
texts = st.one_of(
    st.binary(max_size=120),
    st.sampled_from(
        [
            b"ping",
            b"[" * 125,
            b'{"type":"rt.auth"}',
            b'{"type":"rt.auth","payload":{"token":"\\ud800"}}',
            b'{"type":"\\ud800"}',
            b'{"type":"a","payload":' + b"[" * 90,
        ]
    ),
).map(lambda data: bytes((0x81, 0x80 | len(data))) + bytes(4) + data)
requests = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda method, path, line, body: (
            b"%b %b HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n%b" % (method, path, line, body)
        ),
        st.sampled_from([b"GET", b"POST", b"PUT", b"\xff", b"OPTIONS", b"HEAD"]),
        st.sampled_from(
            [
                b"/ws/realtime?token=%ff&lastEventId=%ff&lastEventTs=%ff",
                b"/internal/emit",
                b"/internal/%ff",
                b"/%00",
                b"/internal/emit?" + b"x" * 100,
                b"/api/websocket/health?token=%ff%fe",
                b"*",
                b"http://",
            ]
        ),
        st.sampled_from(
            [
                b"Content-Length: -1",
                b"Content-Length: 5",
                b"Content-Length: x",
                b"Transfer-Encoding: chunked",
                b"Authorization: Bearer \xff\xfe",
                b"Authorization: Bearer " + EMIT_TOKEN.encode(),
                b"Authorization: Bearer " + EMIT_TOKEN.encode() + b"\r\nTransfer-Encoding: chunked",
                b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13",
                b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 8",
                b"Sec-WebSocket-Protocol: \xff, ,,",
                b"Cookie: \xff=\xff",
                b"Expect: 100-continue\r\nContent-Length: 3",
                b"Content-Type: multipart/form-data; boundary=\r\nContent-Length: 3",
            ]
        ),
        st.binary(max_size=60),
    ),
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
emissions = st.dictionaries(
    st.sampled_from(
        ["userId", "userIds", "type", "payload", "timestamp", "durable", "key", "conflate", "x"]
    ),
    st.one_of(scalars, st.lists(scalars, max_size=3), st.sampled_from(["A", "u", "rt.x"])),
)
bodies = st.one_of(
    st.binary(max_size=100),
    st.one_of(emissions, st.lists(emissions, max_size=3)).map(lambda v: json.dumps(v).encode()),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all of it, which has to have logged no fault when it ends."""
    with serving(tmp_path_factory.mktemp("hostile")) as process:
        yield process
        asyncio.run(_still_serves(process))
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        lines = [json.loads(line) for line in process.rest().splitlines()]
    for line in lines:
        assert line["level"] in {"debug", "info", "warning"}, line
        assert "Traceback" not in json.dumps(line)


async def _still_serves(process: ServerProcess) -> None:
    server = Harness(process, settings_for(Path()))

    async def nobody_left() -> bool:
        return bool((await server.stats())["connections"]["total"] == 0)

    await eventually(nobody_left)
    async with await server.connect("u") as device:
        await device.until("rt.live")
        await server.emit({"userId": "u", "type": "SENTINEL"})
        await device.until("SENTINEL")


async def _send(url: str, data: bytes, *, until: bytes) -> bytes:
    """Send bytes and hang up when the answer has come so far; returns what came."""
    at = urlsplit(url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.readuntil(until), 20)
    except asyncio.IncompleteReadError as error:
        return error.partial
    except ConnectionError:
        return b""
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@MANY
@given(data=requests, internal=st.booleans())
def test_no_request_is_answered_with_a_fault(
    server: ServerProcess, data: bytes, *, internal: bool
) -> None:
    url = server.internal_url if internal else server.public_url
    # A second request, so that an answer comes even where the first is not at its end.
    again = b"\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" + b" " * 400
    answer = asyncio.run(_send(url, data + again, until=b"\r\n"))
    assert not answer.startswith(b"HTTP/1.1 5")


@MANY
@given(body=bodies)
def test_no_body_is_answered_with_a_fault(server: ServerProcess, body: bytes) -> None:
    head = (
        f"POST /internal/emit HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {EMIT_TOKEN}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    answer = asyncio.run(_send(server.internal_url, head.encode() + body, until=b"\r\n"))
    assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 400"))


@MANY
@given(
    parts=st.lists(st.one_of(frames, texts), max_size=5),
    protocol=st.sampled_from(PROTOCOLS),
    query=st.sampled_from([b"", b"&lastEventId=earliest", b"&lastEventId=%ff", b"&lastEventTs=x"]),
)
def test_no_frame_ends_more_than_its_own_connection(
    server: ServerProcess, parts: list[bytes], protocol: bytes, query: bytes
) -> None:
    start = HANDSHAKE % (token("u").encode() + query, protocol)
    data = start + b"".join(parts)
    answer = asyncio.run(_send(server.public_url, data, until=b"\r\n\r\n"))
    assert answer.startswith(b"HTTP/1.1 101")
