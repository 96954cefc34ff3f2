"""The end of a server: ``drain``."""

import asyncio
import contextlib
import json
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from archibald_rt.drain import close_over
from archibald_rt.protocol import CLOSE, frame
from clocks import clock, run_by_the_clock
from engines import over_both
from support import EMIT_TOKEN, Device, eventually, handshake, harness, token


@over_both
@pytest.mark.gen_test
async def test_a_drain_finishes_what_was_accepted_and_spreads_the_closes(tmp_path: Path) -> None:
    async with harness(tmp_path, {"server.drain": "20s"}) as server:
        devices = [await server.connect("u") for _ in range(12)]
        body = json.dumps([{"userId": "u", "type": "A", "payload": n} for n in range(50)])
        emitting = asyncio.create_task(server.post("/internal/emit", body.encode()))

        async def is_stored() -> bool:
            return bool((await server.stats())["log"]["head"])

        await eventually(is_stored)
        reading = [asyncio.create_task(closing(device)) for device in devices]
    closes = [await task for task in reading]
    assert (await emitting).code == 200
    for types, code, _ in closes:
        assert types.count("A") == 50
        assert types[-1] == "rt.reconnect"
        assert code == 1001
    # Over three seconds, unless the machine halts for most of them.
    times = sorted(at for _, _, at in closes)
    assert times[-1] - times[0] > 0.3
    async with harness(tmp_path) as server:
        answer = json.loads((await server.get("/internal/users/u/events?limit=1000")).body)
        assert len(answer["events"]) == 50


async def closing(device: Device) -> tuple[list[str], int | None, float]:
    types: list[str] = []
    while (text := await device.text()) is not None:
        types.append(json.loads(text)["type"])
    at = time.monotonic()
    await device.close()
    return types, device.socket.close_code, at


@pytest.mark.gen_test
async def test_a_draining_server_is_offline_and_refuses(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        keep = server
    with pytest.raises(OSError, match="refused"):
        await keep.get("/healthz", public=True)


@pytest.mark.gen_test
async def test_a_request_half_read_when_the_drain_begins_is_answered_503(tmp_path: Path) -> None:
    async with harness(tmp_path, {"server.drain": "5s"}) as server:
        at = urlsplit(server.server.internal_url)
        reader, writer = await asyncio.open_connection(at.hostname, at.port)
        body = b'{"userId":"u","type":"A"}'
        writer.write(
            b"POST /internal/emit HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b"
            % (EMIT_TOKEN.encode(), len(body), body[:5])
        )
        # Read by the server once a later request was answered.
        await server.stats()
        sending = asyncio.create_task(_when_refused(at.port, writer, body[5:]))
    await sending
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"Connection: close" in answer
    writer.close()


async def _when_refused(port: int | None, writer: asyncio.StreamWriter, rest: bytes) -> None:
    """Send the rest once the server takes no connections any more."""
    with contextlib.suppress(OSError):
        while True:
            (await asyncio.open_connection("127.0.0.1", port))[1].close()
    writer.write(rest)


@pytest.mark.gen_test
async def test_a_handshake_not_yet_read_when_the_drain_begins_is_answered_and_closed(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path, {"server.drain": "5s"}) as server:
        at = urlsplit(server.server.public_url)
        reader, writer = await asyncio.open_connection(at.hostname, at.port)
        # Accepted by the server once a later connection was.
        await server.get("/healthz", public=True)
        sending = asyncio.create_task(_when_refused(at.port, writer, handshake(token("u"))))
    await sending
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 101")
    assert b"Connection: Upgrade" in answer
    assert answer.endswith(close_frame(1001, b"Server going away"))
    writer.close()


@pytest.mark.gen_test
async def test_a_request_not_yet_read_when_the_drain_begins_is_answered(tmp_path: Path) -> None:
    async with harness(tmp_path, {"server.drain": "5s"}) as server:
        at = urlsplit(server.server.public_url)
        reader, writer = await asyncio.open_connection(at.hostname, at.port)
        await server.get("/healthz", public=True)
        request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
        sending = asyncio.create_task(_when_refused(at.port, writer, request))
    await sending
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"Connection: close" in answer
    writer.close()


def close_frame(code: int, reason: bytes) -> bytes:
    return frame(CLOSE, code.to_bytes(2) + reason)


class Ending:
    """A device as a drain sees it: it notes when it was ended, and takes a while to do so."""

    def __init__(self) -> None:
        self.at = 0.0

    def end(self, code: int, reason: str) -> None:
        assert (code, reason) == (1001, "Server going away")
        clock().pass_time(0.0005)
        self.at = clock().time()


def test_many_devices_are_closed_within_the_span_however_long_each_takes() -> None:
    devices = [Ending() for _ in range(1000)]
    run_by_the_clock(close_over(1.0, devices))  # type: ignore[arg-type]  # all of a device that it asks for
    times = [device.at for device in devices]
    assert times == sorted(times)
    assert times[0] < 0.1
    # Bounded by the clock; a sleep for each device, never under a millisecond, came to twice it.
    assert 0.9 < times[-1] < 1.1
    # Evenly: a tenth of them in each tenth.
    assert all(80 <= sum(n / 10 <= at < (n + 1) / 10 for at in times) <= 120 for n in range(10))
