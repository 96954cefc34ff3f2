"""Whatever a client or an emitter sends: no fault, nobody else harmed, nothing kept.

Over 20,000 requests, bodies and frames go to one server, that has to be there for others at the
end. ``PROPERTY_EFFORT=10`` sends ten times as many; where ``CI`` is set they are always the same.
"""

import asyncio
import json
import os
import re
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archibald_rt.errors import CloseCode
from processes import ServerProcess, serving
from support import EMIT_TOKEN, Harness, eventually, settings_for, token

pytestmark = pytest.mark.long

EFFORT = float(os.environ.get("PROPERTY_EFFORT", "1"))
AT_LEAST = {"requests": 2000, "bodies": 8000, "frames": 10_000}
"""How many of each are sent at least."""

CONNECTIONS = 1300
"""On how many connections frames are sent."""

TOGETHER = 5
"""How many bodies are sent at once, each on a connection of its own."""

WARM_AFTER = 1000
"""After how many inputs of a kind the memory is looked at for the first time.

By then every path has been gone and every cache that belongs to the process is there.
"""

MAY_GROW = 3 * 1024 * 1024
"""By how many bytes the server's memory may grow from when all kinds were warm to the end.

It grew by 0.1 to 0.5 MiB in five runs, which is the allocator's. Between lie some 9000 frames, of
which 400 bytes each would be too much.
"""

PATIENCE = 20.0


def examples(count: int) -> settings:
    """Return the settings of a test that tries so many."""
    return settings(
        max_examples=round(count * EFFORT),
        deadline=None,
        derandomize="CI" in os.environ,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


HANDSHAKE = (
    b"GET /ws/realtime?token=%b HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n%b\r\n"
)
POST = (
    b"POST /internal/%b HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n"
    b"Content-Type: %b\r\nContent-Length: %d\r\n\r\n%b"
)
LENGTH = re.compile(rb"(?i)\r\ncontent-length: (\d+)")
PROTOCOLS = [b"", b"Sec-WebSocket-Protocol: archibald.v2\r\n"]
FAREWELL = b"\x88\x80" + bytes(4)

broken_frames = st.builds(
    lambda first, mask, size, data: bytes((first, mask | size)) + bytes(4) + data,
    st.integers(0, 255),
    st.sampled_from([0, 0x80]),
    st.integers(0, 127),
    st.binary(max_size=200),
)
whole_frames = st.builds(
    lambda first, mask, data: (
        bytes((first, 0x80 | len(data)))
        + mask
        + bytes(byte ^ mask[place % 4] for place, byte in enumerate(data))
    ),
    # Texts and pings mostly, a fragmented text, pongs, binaries, a close.
    st.sampled_from([0x81] * 8 + [0x89] * 3 + [0x01, 0x00, 0x80, 0x8A, 0x82, 0x88]),
    st.binary(min_size=4, max_size=4),
    st.one_of(
        st.sampled_from(
            [
                b"ping",
                b"[" * 125,
                b'{"type":"rt.auth"}',
                b'{"type":"rt.auth","payload":{"token":"\\ud800"}}',
                b'{"type":"rt.auth","payload":{"token":"\\u00e9.a.b"}}',
                b'{"type":"\\ud800"}',
                b'{"type":"a","payload":' + b"[" * 90,
                b'{"type":"rt.welcome","payload":null}',
                b'{"type":"a","type":5}',
            ]
        ),
        st.text(max_size=30).map(str.encode),
        st.binary(max_size=120),
    ),
)
conversations = st.builds(
    lambda whole, broken: [*whole, *broken],
    st.lists(whole_frames, min_size=4, max_size=8),
    st.lists(broken_frames, min_size=1, max_size=2),
)
queries = st.one_of(
    st.sampled_from(
        [
            b"",
            b"&lastEventId=earliest",
            b"&lastEventId=%ff",
            b"&lastEventTs=x",
            b"&lastEventTs=0001-01-01T00:00:00%2b23:59",
            b"&lastEventId=a:9223372036854775807",
        ]
    ),
    st.text(alphabet="0123456789:abcdef%-TZ+.&=?;", max_size=30).map(
        lambda text: b"&lastEventId=" + text.encode()
    ),
)
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
good = st.fixed_dictionaries(
    {"userId": st.sampled_from(["u", "v"]) | st.text(max_size=4), "type": st.text(max_size=4)},
    optional={
        "payload": scalars | st.dictionaries(st.text(max_size=3), scalars, max_size=3),
        "durable": st.booleans(),
        "key": st.sampled_from(["k", "l", "\0"]),
        "timestamp": st.datetimes().map(lambda at: at.isoformat() + "Z"),
    },
)
payloads = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [
            *(b"1e999", b"-0", b"NaN", b"1" * 5000, b'"\xff"', b'"\\ud800"', b'"\\u0000"', b'"\0"'),
            *(b"[" * 600 + b"]" * 600, b"[" * 500 + b"]" * 500, b"[" * 100_000),
            *(b'{"a":1,"a":2}', b"{\r\n}", b"\xef\xbb\xbf1", b'"\xed\xa0\x80"', b'"\xe2\x80\xa8"'),
            *(b'1,"userId":"v"', b'1}\n{"userId":"v","type":"A"', b"x" * 70_000),
        ]
    ),
).map(lambda payload: b'{"userId":"u","type":"A","payload":%b}' % payload)
written = st.one_of(emissions, st.lists(good | emissions, max_size=3), good, good).map(
    lambda value: json.dumps(value).encode()
)
bodies = st.one_of(
    st.binary(max_size=100),
    written,
    written,
    payloads,
    st.lists(written, max_size=3).map(b"\n".join),
    # One byte of it is another.
    st.builds(
        lambda data, place, byte: data[: place % len(data)] + byte + data[place % len(data) + 1 :],
        written,
        st.integers(0, 200),
        st.binary(max_size=1),
    ),
)
posts = st.builds(
    lambda path, media_type, body: POST % (path, EMIT_TOKEN.encode(), media_type, len(body), body),
    st.sampled_from([b"emit"] * 3 + [b"broadcast"]),
    st.sampled_from([b"application/json"] * 4 + [b"application/x-ndjson", b"text/plain", b"\xff"]),
    bodies,
)


class Target:
    """The server, and what was sent to it."""

    def __init__(self, process: ServerProcess) -> None:
        self.process = process
        self.sent: Counter[str] = Counter()
        self._warm: dict[str, int] = {}
        self._kept: list[socket.socket] = []

    def count(self, kind: str, sent: int = 1) -> None:
        """Note that so many were sent."""
        self.sent[kind] += sent
        if kind not in self._warm and self.sent[kind] >= WARM_AFTER:
            self._warm[kind] = self.process.resident

    def growth(self) -> int:
        """Return by how many bytes the memory has grown since the last kind was warm."""
        assert set(self._warm) == set(AT_LEAST)
        return self.process.resident - max(self._warm.values())

    def talk(self, url: str, data: bytes) -> bytes:
        """Send all of it on a connection of its own; return all that comes until its end."""
        with self._connect(url) as sock:
            with suppress(ConnectionError):
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
            return self._rest(sock)

    def ask(self, requests: list[bytes]) -> Iterator[tuple[int, bytes]]:
        """Send whole requests at once, each on one of the connections that are kept.

        Yields the status and the body of each answer.
        """
        while len(self._kept) < len(requests):
            self._kept.append(self._connect(self.process.internal_url))
        for sock, request in zip(self._kept, requests, strict=True):
            sock.sendall(request)
        for sock in self._kept:
            answer = b""
            while (end := answer.find(b"\r\n\r\n")) < 0:
                answer += self._more(sock)
            (length,) = LENGTH.findall(answer, 0, end)
            while len(answer) < end + 4 + int(length):
                answer += self._more(sock)
            yield int(answer.split(b" ", 2)[1]), answer[end + 4 :]

    def close(self) -> None:
        """Close the connections that are kept."""
        for sock in self._kept:
            sock.close()

    @staticmethod
    def _more(sock: socket.socket) -> bytes:
        data = sock.recv(65536)
        assert data, "the connection was closed instead of an answer"
        return data

    @staticmethod
    def _connect(url: str) -> socket.socket:
        at = urlsplit(url)
        return socket.create_connection((at.hostname, at.port), PATIENCE)

    @staticmethod
    def _rest(sock: socket.socket) -> bytes:
        parts = []
        with suppress(ConnectionError):
            while data := sock.recv(65536):
                parts.append(data)
        return b"".join(parts)


@pytest.fixture(scope="module")
def target(
    tmp_path_factory: pytest.TempPathFactory, report: Callable[[str], None]
) -> Iterator[Target]:
    """One server for all of it, which has to be as good as new at the end."""
    # What is stored is to stay little, and to be pruned while it is replayed.
    bounds = {
        "ARCHIBALD_RT_LOG_MAX_EVENTS_PER_USER": "50",
        "ARCHIBALD_RT_LOG_PRUNE_EVERY": "1s",
        "ARCHIBALD_RT_INTERNAL_MAX_BODY": "80KiB",
        # One user connects again and again.
        "ARCHIBALD_RT_DELIVERY_CONNECTS_PER_USER_PER_MINUTE": "0",
    }
    with serving(tmp_path_factory.mktemp("hostile"), bounds) as process:
        process.follow()
        target = Target(process)
        yield target
        target.close()
        asyncio.run(_still_serves(process))
        if set(target.sent) == set(AT_LEAST):
            # All tests of this module have run.
            for kind, count in AT_LEAST.items():
                assert target.sent[kind] >= count * EFFORT, kind
            growth = target.growth()
            report(f"hostile input: {dict(target.sent)}, memory grew by {growth / 2**20:.1f} MiB")
            assert growth <= MAY_GROW
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        process.check_log()


async def _still_serves(process: ServerProcess) -> None:
    server = Harness(process, settings_for(Path()))

    async def nobody_left() -> bool:
        return bool((await server.stats())["connections"]["total"] == 0)

    await eventually(nobody_left)
    async with await server.connect("u") as device:
        await device.until("rt.live")
        await server.emit({"userId": "u", "type": "SENTINEL"})
        await device.until("SENTINEL")


@examples(AT_LEAST["requests"])
@given(data=requests, internal=st.booleans())
def test_no_request_is_answered_with_a_fault(
    target: Target, data: bytes, *, internal: bool
) -> None:
    process = target.process
    url = process.internal_url if internal else process.public_url
    # A second request, so that an answer comes even where the first is not at its end.
    again = b"\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" + b" " * 400
    answer = target.talk(url, data + again)
    target.count("requests")
    assert b"HTTP/1.1 5" not in answer


@examples(AT_LEAST["bodies"] // TOGETHER)
@given(posts=st.lists(posts, min_size=TOGETHER, max_size=TOGETHER))
def test_no_body_is_answered_with_a_fault(target: Target, posts: list[bytes]) -> None:
    for status, body in target.ask(posts):
        assert status in {200, 400, 409, 413, 415}
        assert json.loads(body).get("status", 200) == status
    target.count("bodies", len(posts))


def closes_of(frames: bytes) -> list[int]:
    """Return the codes of the close frames in what a server sent, which may end in the middle."""
    codes = []
    while len(frames) >= 2:
        opcode, length, start = frames[0], frames[1], 2
        assert opcode in {0x81, 0x88, 0x89, 0x8A}
        if length >= 126:
            start = 4 if length == 126 else 10
            length = int.from_bytes(frames[2:start])
        data = frames[start : start + length]
        if opcode == 0x88:
            assert len(frames) <= start + length, "something follows the close frame"
            codes.append(int.from_bytes(data[:2]) if data else 1005)
        frames = frames[start + length :]
    return codes


@examples(CONNECTIONS)
@given(frames=conversations, protocol=st.sampled_from(PROTOCOLS), query=queries)
def test_no_frame_ends_more_than_its_own_connection(
    target: Target, frames: list[bytes], protocol: bytes, query: bytes
) -> None:
    start = HANDSHAKE % (token("u").encode() + query, protocol)
    answer = target.talk(target.process.public_url, start + b"".join(frames) + FAREWELL)
    target.count("frames", len(frames) + 1)
    assert answer.startswith(b"HTTP/1.1 101 ")
    _head, _, written = answer.partition(b"\r\n\r\n")
    assert CloseCode.INTERNAL_ERROR not in closes_of(written)
