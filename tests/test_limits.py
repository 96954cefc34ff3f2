"""What one user, one address and one device may do, at a whole server."""

import asyncio
import json
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tornado.websocket import WebSocketClosedError

from archibald_rt.client import Client, ClientClosedError
from archibald_rt.limits import REFUSALS_TOLD, Limits
from archibald_rt.reception import ClientMessage
from support import Device, Harness, eventually, handshake, harness, silenced, token

TOO_MANY_CONNECTS = (1013, "Too many connects")
TOO_MANY_DEVICES = (4003, "Too many devices")
TOO_MANY_MESSAGES = (4005, "Too many client messages")
BAD_TOKEN = (1008, "Authentication failed")


async def limits(server: Harness) -> dict[str, int]:
    counted: dict[str, int] = (await server.stats())["limits"]
    return counted


async def live(server: Harness, user: str, **query: Any) -> Device:
    device = await server.connect(user, **query)
    if query.get("v2", True):
        await device.until("rt.live")
    return device


async def gets(server: Harness, user: str, *devices: Device) -> None:
    """Show that these devices of a user, and no others, are connected."""
    assert (await server.emit({"userId": user, "type": "SENTINEL"}))["delivered"] == len(devices)
    for device in devices:
        await device.until("SENTINEL")


# Devices of a user


@pytest.mark.gen_test
async def test_the_newest_device_is_let_in_and_the_oldest_of_that_user_ends(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path, {"delivery.devices_per_user": "2"}) as server:
        other = await live(server, "other")
        first, second = await live(server, "u"), await live(server, "u", v2=False)
        third = await live(server, "u")
        assert await first.closed() == TOO_MANY_DEVICES
        await gets(server, "u", second, third)
        fourth = await live(server, "u")
        assert await second.closed() == TOO_MANY_DEVICES
        await gets(server, "u", third, fourth)
        await gets(server, "other", other)
        assert (await limits(server))["devices"] == 2
        for device in (first, second, third, fourth, other):
            await device.close()


@pytest.mark.gen_test
async def test_what_was_emitted_before_still_reaches_the_device_that_makes_room(
    tmp_path: Path,
) -> None:
    overrides = {"delivery.devices_per_user": "1"}
    async with harness(tmp_path, overrides) as server, AsyncExitStack() as stack:
        first = await stack.enter_async_context(await live(server, "u"))
        await server.emit([{"userId": "u", "type": "A", "payload": n} for n in range(100)])
        async with await live(server, "u"):
            assert [message["payload"] for message in await first.take(100)] == list(range(100))
            assert await first.closed() == TOO_MANY_DEVICES


@pytest.mark.gen_test
async def test_a_device_that_left_makes_room_for_another(tmp_path: Path) -> None:
    async with harness(tmp_path, {"delivery.devices_per_user": "2"}) as server:
        async with await live(server, "u") as staying:
            for _ in range(5):
                await (await live(server, "u")).close()
            await gets(server, "u", staying)
        assert (await limits(server))["devices"] == 0


@pytest.mark.gen_test
async def test_when_all_come_back_only_their_lost_connections_make_room(tmp_path: Path) -> None:
    overrides = {"delivery.devices_per_user": "5", "delivery.heartbeat": "0"}
    async with harness(tmp_path, overrides) as server, AsyncExitStack() as stack:
        # Nothing tells the server that these are gone: they just don't read any more.
        lost = [await live(server, "u") for _ in range(5)]
        back = [await stack.enter_async_context(await live(server, "u")) for _ in lost]
        await gets(server, "u", *back)
        assert (await limits(server))["devices"] == 5
        for device in lost:
            assert await device.closed() == TOO_MANY_DEVICES
            await device.close()


@pytest.mark.gen_test
async def test_the_python_client_does_not_come_back_to_push_another_one_out(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path, {"delivery.devices_per_user": "1"}) as server:
        async with Client(server.server.public_url, token("u")) as client:
            await anext(client)
            async with await live(server, "u") as device:
                with pytest.raises(ClientClosedError) as caught:
                    await anext(client)
                assert caught.value.code == 4003
                await gets(server, "u", device)
        assert (await limits(server))["devices"] == 1


@pytest.mark.gen_test
async def test_devices_per_user_0_is_no_limit(tmp_path: Path) -> None:
    async with harness(tmp_path, {"delivery.devices_per_user": "0"}) as server:
        async with AsyncExitStack() as stack:
            devices = [await live(server, "u") for _ in range(25)]
            for device in devices:
                await stack.enter_async_context(device)
            await gets(server, "u", *devices)


# Connects of a user and of an address


@pytest.mark.gen_test
async def test_a_user_who_connects_too_often_is_closed_with_1013_before_a_session_is_made(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path, {"delivery.connects_per_user_per_minute": "3"}) as server:
        for v2 in (True, False, True):
            await (await live(server, "u", v2=v2)).close()
        for v2 in (True, False):
            async with await server.connect("u", v2=v2, lastEventId="earliest") as device:
                assert await device.text() is None
                assert await device.closed() == TOO_MANY_CONNECTS
        await (await live(server, "other")).close()
        assert (await limits(server))["connects"] == 2
        assert (await server.stats())["connections"]["resumed"] == 0


@pytest.mark.gen_test
async def test_a_user_may_come_back_after_a_while(tmp_path: Path) -> None:
    async with harness(tmp_path, {"delivery.connects_per_user_per_minute": "600"}) as server:
        ends = [await connect_from(server, "") for _ in range(650)]
        assert None in ends
        assert TOO_MANY_CONNECTS in ends

        async def comes_in() -> bool:
            return await connect_from(server, "") is None

        await eventually(comes_in)


@pytest.mark.gen_test
async def test_a_stranger_cannot_use_up_a_users_connects(tmp_path: Path) -> None:
    async with harness(tmp_path, {"delivery.connects_per_user_per_minute": "2"}) as server:
        bad = token("u", secret="another-secret-of-at-least-thirty-two-bytes")
        for _ in range(10):
            async with await server.open({"token": bad}) as device:
                assert await device.closed() == BAD_TOKEN
        await (await live(server, "u")).close()


@pytest.mark.gen_test
async def test_an_address_that_connects_too_often_is_closed_whatever_its_token(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path, {"server.connects_per_address_per_minute": "2"}) as server:
        for text, end in (
            (token("u"), None),
            ("bad", BAD_TOKEN),
            (token("u"), TOO_MANY_CONNECTS),
            ("bad", TOO_MANY_CONNECTS),
        ):
            async with await server.open({"token": text}) as device:
                if end is not None:
                    assert await device.closed() == end
        assert (await server.stats())["connections"]["refused"] == 1
        assert (await limits(server))["connects"] == 2
        # Only connects are counted.
        assert (await server.get("/healthz", public=True)).code == 200


async def connect_from(server: Harness, forwarded: str) -> tuple[int, str] | None:
    """Connect as a proxy would for another; returns how it was closed, None if it wasn't."""
    port = int(server.server.public_url.rpartition(":")[2])
    return await end_of(*await asyncio.open_connection("127.0.0.1", port), forwarded)


async def end_of(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, forwarded: str
) -> tuple[int, str] | None:
    """Shake hands and ping; returns how the connection was closed, None if it was not."""
    forwarding = f"X-Forwarded-For: {forwarded}\r\n\r\n"
    writer.write(handshake(token("u"))[:-2] + forwarding.encode() + b"\x89\x80\0\0\0\0")
    await reader.readuntil(b"\r\n\r\n")
    opcode, length = await reader.readexactly(2)
    data = await reader.readexactly(length)
    writer.close()
    return (int.from_bytes(data[:2]), data[2:].decode()) if opcode == 0x88 else None


@pytest.mark.gen_test
async def test_behind_a_trusted_proxy_each_client_has_its_own_connects(tmp_path: Path) -> None:
    overrides = {
        "server.connects_per_address_per_minute": "1",
        "server.trusted_proxies": "127.0.0.0/8",
    }
    async with harness(tmp_path, overrides) as server:
        assert await connect_from(server, "192.0.2.1") is None
        assert await connect_from(server, "192.0.2.2") is None
        assert await connect_from(server, "9.9.9.9, 192.0.2.1") == TOO_MANY_CONNECTS
        assert await connect_from(server, "2001:db8::1") is None
        assert await connect_from(server, "2001:db8::2") == TOO_MANY_CONNECTS


@pytest.mark.gen_test
async def test_without_trusted_proxies_the_header_changes_nothing(tmp_path: Path) -> None:
    async with harness(tmp_path, {"server.connects_per_address_per_minute": "1"}) as server:
        assert await connect_from(server, "192.0.2.1") is None
        assert await connect_from(server, "192.0.2.2") == TOO_MANY_CONNECTS


@pytest.mark.gen_test
async def test_a_unix_socket_has_no_address_but_that_which_a_trusted_proxy_says(
    tmp_path: Path,
) -> None:
    path = tmp_path / "public"
    overrides = {
        "server.connects_per_address_per_minute": "1",
        "server.unix_socket": str(path),
    }
    async with harness(tmp_path, overrides):
        for _ in range(3):
            assert await end_of(*await asyncio.open_unix_connection(path), "192.0.2.1") is None
    trusting = {**overrides, "server.trusted_proxies": "127.0.0.1"}
    async with harness(tmp_path, trusting):
        for client, end in (
            ("192.0.2.1", None),
            ("192.0.2.2", None),
            ("192.0.2.1", TOO_MANY_CONNECTS),
        ):
            assert await end_of(*await asyncio.open_unix_connection(path), client) == end


@pytest.mark.gen_test
async def test_log_lines_have_the_clients_address(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with harness(tmp_path, {"server.trusted_proxies": "127.0.0.1"}) as server:
        headers = {"X-Forwarded-For": "192.0.2.77"}
        async with await server.open({"token": "bad"}, headers=headers) as device:
            assert await device.closed() == BAD_TOKEN
    assert "address=192.0.2.77" in "".join(capfd.readouterr())


@pytest.mark.gen_test
async def test_a_flood_of_connects_is_a_line_or_two_in_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with harness(tmp_path, {"delivery.connects_per_user_per_minute": "1"}) as server:
        for _ in range(30):
            await (await server.connect("u", v2=False)).close()
    lines = [line for line in "".join(capfd.readouterr()).splitlines() if "too many" in line]
    assert ["count=1" in line for line in lines] == [True, False]
    assert "count=28" in lines[1]
    assert "user=u" in lines[1]


# Messages of a device


@pytest.mark.parametrize(
    "message",
    ["ping", '{"type":"a"}', "nonsense", b"\x00", '{"type":"rt.auth","payload":{"token":"TOKEN"}}'],
)
@pytest.mark.gen_test
async def test_a_device_that_sends_too_many_messages_of_any_kind_is_closed_with_4005(
    tmp_path: Path, message: str | bytes
) -> None:
    if isinstance(message, str):
        message = message.replace("TOKEN", token("u"))
    async with harness(tmp_path, {"delivery.client_messages_per_second": "5"}) as server:
        async with await live(server, "u") as quiet, await live(server, "u") as device:
            with silenced("tornado"), suppress(WebSocketClosedError):
                for _ in range(50):
                    await device.send(message)
            assert await device.closed() == TOO_MANY_MESSAGES
            await gets(server, "u", quiet)
            stats = await server.stats()
            assert 6 <= stats["clientMessages"]["received"] < 50
            assert stats["limits"]["messages"] == 1


@pytest.mark.gen_test
async def test_each_device_may_send_a_seconds_worth_at_once_and_protocol_pings_do_not_count(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path) as server:
        devices = [await live(server, "u", v2=False) for _ in range(3)]
        for device in devices:
            for _ in range(200):
                device.socket.ping(b"x")
            for _ in range(50):
                await device.send("ping")
        for device in devices:
            for _ in range(50):
                assert await device.text() == "pong"
            await device.close()
        assert (await limits(server))["messages"] == 0


@pytest.mark.gen_test
async def test_client_messages_per_second_0_is_no_limit(tmp_path: Path) -> None:
    async with harness(tmp_path, {"delivery.client_messages_per_second": "0"}) as server:
        async with await live(server, "u", v2=False) as device:
            for _ in range(500):
                await device.send("ping")
            for _ in range(500):
                assert await device.text() == "pong"


@pytest.mark.gen_test
async def test_what_gathered_while_a_hook_held_a_device_back_is_no_flood(tmp_path: Path) -> None:
    taken: list[ClientMessage] = []
    release = asyncio.Event()

    async def hook(message: ClientMessage) -> None:
        taken.append(message)
        if len(taken) == 1:
            await release.wait()

    overrides = {"delivery.client_messages_per_second": "20"}
    async with harness(tmp_path, overrides, on_message=hook) as server:
        async with await live(server, "u") as device:
            began = asyncio.get_running_loop().time()
            for number in range(50):
                await device.send(json.dumps({"type": "a", "payload": number}))
            # By then a device that keeps to the rule may have sent as many.
            await eventually(lambda: asyncio.get_running_loop().time() - began > 2)
            assert len(taken) == 1
            release.set()
            await eventually(lambda: len(taken) == 50)
            assert (await limits(server))["messages"] == 0


@pytest.mark.gen_test
async def test_a_message_in_fragments_that_is_too_big_ends_with_1009(tmp_path: Path) -> None:
    async with harness(tmp_path, {"delivery.max_client_message": "1KiB"}) as server:
        port = int(server.server.public_url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        fragment = bytes((0x80 | 100,)) + bytes(4) + b"x" * 100
        pings = b"\x89\x80\0\0\0\0" * 3
        writer.write(handshake(token("u")) + b"\x01" + fragment)
        writer.write((pings + b"\x00" + fragment) * 9)
        writer.write(b"\x00" + bytes((0x80 | 25,)) + bytes(4) + b"x" * 25)
        received = await asyncio.wait_for(reader.read(), 20)
        assert received.count(b"\x8a\x00") == 27
        assert received.endswith(b"\x88\x11\x03\xf1message too big")
        writer.close()


@pytest.mark.gen_test
async def test_what_a_flood_of_refusals_left_unsaid_is_said_at_the_end() -> None:
    limits = Limits(
        connects_per_address=0, connects_per_user=0, devices_per_user=0, messages_per_device=0
    )
    with capture_logs() as logs:
        for _ in range(2 * REFUSALS_TOLD):
            limits.note_refusal(
                reason="signature", detail="no key", request_id="r", address="192.0.2.1"
            )
        assert [entry["count"] for entry in logs] == [1] * REFUSALS_TOLD
        limits.close()
        limits.close()
    assert [entry["count"] for entry in logs[REFUSALS_TOLD:]] == [REFUSALS_TOLD]
    assert {entry["event"] for entry in logs} == {"device refused"}
