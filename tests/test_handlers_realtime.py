"""``GET /ws/realtime`` in both dialects, over real sockets."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPClientError

from archibald_rt.protocol import CLOSE, frame
from archibald_rt.reception import ClientMessage
from engines import over_both
from support import (
    SECRET,
    SUBPROTOCOL,
    Device,
    Harness,
    eventually,
    handshake,
    harness,
    problem_of,
    token,
)

REFUSED = (1008, "Authentication failed")


def seq_of(cursor: str) -> int:
    return int(cursor.split(":")[1])


async def fill(server: Harness, user: str, count: int) -> list[str]:
    """Emit so many durable events with the payloads 0, 1, …; returns their cursors."""
    items = [{"userId": user, "type": "A", "payload": number} for number in range(count)]
    # As many as a log in JetStream takes at once.
    batches = [await server.emit(items[at : at + 1000]) for at in range(0, count, 1000)]
    return [result["id"] for each in batches for result in each["results"]]


async def payloads_until_live(device: Device) -> list[Any]:
    await device.until("rt.live")
    return [message["payload"] for message in device.seen if "id" in message]


async def shake_hands(
    server: Harness, text: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection with this token on which nothing is answered by itself."""
    port = int(server.server.public_url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"GET /ws/realtime?token={text} HTTP/1.1\r\nHost: x\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    return reader, writer


def masked(opcode: int, data: bytes) -> bytes:
    """Make a short frame as a client sends it, its mask being zero."""
    return bytes((0x80 | opcode, 0x80 | len(data))) + bytes(4) + data


# Tokens


@pytest.mark.gen_test
async def test_a_token_is_taken_from_query_header_or_subprotocol_entry(tmp_path: Path) -> None:
    good = token("u")
    async with harness(tmp_path) as server:
        for device in (
            await server.open({"token": good}),
            await server.open({}, headers={"Authorization": f"Bearer {good}"}),
            await server.open({}, headers={"Authorization": f"bearer  {good}"}, v2=False),
            await server.open({}, subprotocols=[SUBPROTOCOL, f"bearer.{good}"]),
            await server.open({}, subprotocols=[f"bearer.{good}", SUBPROTOCOL]),
        ):
            await server.emit({"userId": "u", "type": "SENTINEL"})
            await device.until("SENTINEL")
            await device.close()


@pytest.mark.gen_test
async def test_the_first_token_that_is_found_counts(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        headers = {"Authorization": f"Bearer {token('u')}"}
        async with await server.open({"token": "wrong"}, headers=headers) as device:
            assert await device.closed() == REFUSED


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "no.jwt.at-all",
        token("u", secret="another-secret-of-at-least-thirty-two-bytes"),
        token("u", exp=1),
        token("u", nbf=4102444800),
        token("u", iat=4102444800),
        token("u", aud="somebody-else") + "x",
        jwt.encode({"userId": "u"}, "", algorithm="none"),
        token(""),
        token("x" * 257),
        token("a\nb"),
        token(user=True),
        token(None),
        token(1.5),
        token(["u"]),
        jwt.encode({"name": "u"}, SECRET, algorithm="HS256"),
        token("u", padding="x" * 8192),
        token("u", exp="soon"),
        token("u", exp=float("inf")),
        "\udcff",
    ],
)
@pytest.mark.parametrize("v2", [True, False])
@pytest.mark.gen_test
async def test_a_bad_token_is_accepted_and_closed_at_once_whatever_is_wrong_with_it(
    tmp_path: Path, bad: str, *, v2: bool
) -> None:
    async with harness(tmp_path) as server:
        query = {"token": bad.encode("utf-8", "surrogateescape").decode("latin-1")}
        async with await server.open(query, v2=v2) as device:
            assert device.socket.selected_subprotocol == (SUBPROTOCOL if v2 else None)
            assert await device.text() is None
            assert await device.closed() == REFUSED
        assert (await server.stats())["connections"]["refused"] == 1


@pytest.mark.gen_test
async def test_a_user_may_be_an_integer_and_the_first_claim_present_decides(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        both = jwt.encode({"userId": 42, "sub": "other"}, SECRET, algorithm="HS256")
        only_sub = jwt.encode({"sub": 42}, SECRET, algorithm="HS256")
        for text in (both, only_sub):
            async with await server.open({"token": text}, v2=False) as device:
                await server.emit({"userId": "42", "type": "SENTINEL"})
                assert (await device.next())["type"] == "SENTINEL"


@pytest.mark.gen_test
async def test_a_token_closes_its_connection_when_it_expires_and_the_leeway_is_over(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path, {"auth.leeway": "1s"}) as server:
        expires = int(time.time()) + 1
        async with await server.open({"token": token("u", exp=expires)}) as device:
            assert await device.closed() == (4001, "Token expired")
            assert 0 <= time.time() - (expires + 1) < 3


@pytest.mark.gen_test
async def test_rt_auth_replaces_the_token_in_place(tmp_path: Path) -> None:
    async with harness(tmp_path, {"auth.leeway": "1s"}) as server:
        now = int(time.time())
        async with (
            await server.open({"token": token("u", exp=now + 1)}) as renewed,
            await server.open({"token": token("u", exp=now + 1)}) as expired,
        ):
            new = token("u", exp=now + 3600)
            await renewed.send(json.dumps({"type": "rt.auth", "payload": {"token": new}}))
            answer = await renewed.until("rt.auth")
            assert answer["payload"]["expires"].endswith("Z")
            await renewed.send(json.dumps({"type": "rt.auth", "payload": {"token": token("u")}}))
            assert (await renewed.until("rt.auth"))["payload"] == {"expires": None}
            assert (await expired.closed())[0] == 4001
            await server.emit({"userId": "u", "type": "SENTINEL"})
            await renewed.until("SENTINEL")


@pytest.mark.parametrize(
    "payload", [{"token": token("v")}, {"token": "bad"}, {"token": 1}, {}, None, []]
)
@pytest.mark.gen_test
async def test_rt_auth_with_another_users_token_or_a_bad_one_ends_the_connection(
    tmp_path: Path, payload: object
) -> None:
    async with harness(tmp_path) as server, await server.connect("u") as device:
        await device.send(json.dumps({"type": "rt.auth", "payload": payload}))
        assert await device.closed() == REFUSED


# Subprotocols and origins


@pytest.mark.gen_test
async def test_subprotocols_without_v2_are_refused_with_400(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        for offered in (["other"], [f"bearer.{token('u')}"], ["archibald.v1", "ARCHIBALD.V2"]):
            with pytest.raises(HTTPClientError) as caught:
                await server.open({"token": token("u")}, subprotocols=offered)
            assert caught.value.code == 400


@pytest.mark.gen_test
async def test_a_request_that_is_no_upgrade_is_a_problem_document(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        whole = {
            "Upgrade": "websocket",
            "Connection": "keep-alive, Upgrade",
            "Sec-WebSocket-Version": "13",
        }
        for name, value, status in (
            ("Upgrade", "h2c", 400),
            ("Connection", "keep-alive", 400),
            ("Sec-WebSocket-Version", "8", 426),
        ):
            url = f"{server.server.public_url}/ws/realtime?token={token('u')}"
            headers = {**whole, name: value}
            response = await AsyncHTTPClient().fetch(url, headers=headers, raise_error=False)
            assert response.code == status
            assert problem_of(response)["field"] == name
            assert response.headers.get("Sec-WebSocket-Version") == (
                "13" if status == 426 else None
            )


@pytest.mark.gen_test
async def test_nothing_follows_the_close_frame_of_a_breach(tmp_path: Path) -> None:
    refusal = frame(CLOSE, (1002).to_bytes(2) + b"the frame is not masked")
    async with harness(tmp_path) as server:
        event = {"userId": "u", "type": "A"}
        await server.emit(event)
        for query in ("", "&lastEventTs=2000-01-01T00:00:00Z"):
            at = urlsplit(server.server.public_url)
            reader, writer = await asyncio.open_connection(at.hostname, at.port)
            # It breaks the rules before its replay has begun, and doesn't hang up.
            writer.write(handshake(token("u") + query) + b"\x81\x00")
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(len(refusal)) == refusal
            assert (await server.emit(event))["delivered"] == 0
            assert (await server.stats())["connections"]["total"] == 0
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()


@pytest.mark.gen_test
async def test_a_foreign_origin_is_refused_with_403_and_logged_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with harness(tmp_path, {"server.allowed_origins": "https://*.example.com"}) as server:
        for _ in range(3):
            with pytest.raises(HTTPClientError) as caught:
                await server.open({"token": token("u")}, headers={"Origin": "https://evil.example"})
            assert caught.value.code == 403
        port = server.server.public_url.rpartition(":")[2]
        for origin in ("https://app.example.com", f"http://127.0.0.1:{port}"):
            query = {"token": token("u")}
            await (await server.open(query, headers={"Origin": origin})).close()
    logged = capfd.readouterr()
    assert (logged.out + logged.err).count("allowed_origins = https://evil.example") == 1


# v1


@over_both
@pytest.mark.gen_test
async def test_a_v1_device_gets_events_only_and_no_further_keys(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        await fill(server, "u", 1)
        async with await server.connect("u", v2=False, lastEventTs="2020-01-01T00:00:00Z") as v1:
            await server.emit({"userId": "u", "type": "JOB_PROGRESS"})
            await server.emit({"userId": "u", "type": "JOB_COMPLETED"})
            for message in await v1.take(3):
                assert list(message) == ["type", "payload", "timestamp"]
                assert not message["type"].startswith("rt.")


@over_both
@pytest.mark.parametrize("absent", [{}, {"lastEventTs": "yesterday"}, {"lastEventTs": ""}])
@pytest.mark.gen_test
async def test_a_v1_device_without_a_readable_instant_is_live_only(
    tmp_path: Path, absent: dict[str, str]
) -> None:
    async with harness(tmp_path) as server:
        await fill(server, "u", 3)
        async with await server.connect("u", v2=False, **absent) as device:
            await server.emit({"userId": "u", "type": "SENTINEL"})
            assert (await device.next())["type"] == "SENTINEL"


@over_both
@pytest.mark.gen_test
async def test_what_comes_after_a_v1_connect_is_live_whatever_its_timestamp_says(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path) as server:
        old = {"userId": "u", "type": "OLD", "timestamp": "2001-01-01T00:00:00Z"}
        await server.emit(old)
        async with await server.connect("u", v2=False, lastEventTs="2020-01-01T00:00:00Z") as v1:
            await server.emit({**old, "type": "LATE"})
            assert (await v1.next())["type"] == "LATE"


@over_both
@pytest.mark.gen_test
async def test_a_v1_replay_is_in_commit_order_and_by_each_events_own_timestamp(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path) as server:
        for second in (5, 1, 9, 3, 7):
            stamp = f"2026-01-01T00:00:0{second}.000000001+00:00"
            await server.emit({"userId": "u", "type": f"E{second}", "timestamp": stamp})
        # A space for the + that was not percent-encoded; and one nanosecond decides.
        since = "2026-01-01T02:00:03.000000001 02:00"
        async with await server.connect("u", v2=False, lastEventTs=since) as device:
            await server.emit({"userId": "u", "type": "SENTINEL"})
            types = [message["type"] for message in await device.take(4)]
            assert types == ["E5", "E9", "E7", "SENTINEL"]


# v2


@over_both
@pytest.mark.gen_test
async def test_a_device_that_does_not_resume_is_welcomed_and_live_at_once(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        cursors = await fill(server, "u", 3)
        async with await server.connect("u") as device:
            welcome, live = await device.take(2)
            assert list(welcome) == ["type", "payload", "timestamp"]
            assert welcome["type"] == "rt.welcome"
            assert welcome["payload"] == {
                "cursor": cursors[-1],
                "connection": welcome["payload"]["connection"],
                "heartbeatMs": 30000,
                "replay": False,
            }
            assert live["type"] == "rt.live"
            assert live["payload"] == {"cursor": cursors[-1], "replayed": 0}
            answer = await server.emit({"userId": "u", "type": "A"})
            event = await device.next()
            assert list(event) == ["id", "prev", "type", "payload", "timestamp"]
            assert (event["id"], event["prev"]) == (answer["id"], cursors[-1])
            await server.emit({"userId": "u", "type": "JOB_PROGRESS"})
            assert list(await device.next()) == ["type", "payload", "timestamp"]


@over_both
@pytest.mark.gen_test
async def test_a_resume_brings_what_came_after_the_cursor_and_then_live(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        cursors = await fill(server, "u", 10)
        await fill(server, "other", 10)
        async with await server.connect("u", lastEventId=cursors[3]) as device:
            assert await payloads_until_live(device) == [4, 5, 6, 7, 8, 9]
            welcome, *events, live = device.seen
            assert welcome["payload"]["cursor"] == cursors[3]
            assert welcome["payload"]["replay"] is True
            assert [event["prev"] for event in events] == cursors[3:9]
            assert live["payload"] == {"cursor": cursors[9], "replayed": 6}


@over_both
@pytest.mark.gen_test
async def test_earliest_brings_all_that_is_retained(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        await fill(server, "other", 2)
        cursors = await fill(server, "u", 3)
        async with await server.connect("u", lastEventId="earliest") as device:
            assert await payloads_until_live(device) == [0, 1, 2]
            assert seq_of(device.seen[0]["payload"]["cursor"]) == seq_of(cursors[0]) - 1
        async with await server.connect("new", lastEventId="earliest") as device:
            assert await payloads_until_live(device) == []
            assert device.seen[0]["payload"]["cursor"] == cursors[-1]


@over_both
@pytest.mark.parametrize(
    "unreadable",
    ["nonsense", ":", "a:b", "other:3", "{epoch}:-1", "{epoch}:01", "{epoch}:", "x" * 500, "é:1"],
)
@pytest.mark.gen_test
async def test_a_cursor_of_another_log_or_none_at_all_is_told_and_all_retained_follows(
    tmp_path: Path, unreadable: str
) -> None:
    async with harness(tmp_path) as server:
        cursors = await fill(server, "u", 3)
        text = unreadable.replace("{epoch}", cursors[0].split(":")[0])
        async with await server.connect("u", lastEventId=text) as device:
            assert await payloads_until_live(device) == [0, 1, 2]
            gap = device.seen[1]
            assert gap["type"] == "rt.gap"
            assert gap["payload"] == {
                "requested": text[:200],
                "missingThrough": None,
                "reason": "epoch",
            }
            assert device.seen[2]["prev"] == device.seen[0]["payload"]["cursor"]


@over_both
@pytest.mark.gen_test
async def test_a_cursor_from_the_future_is_told_and_all_retained_follows(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        cursors = await fill(server, "u", 2)
        ahead = f"{cursors[0].split(':')[0]}:{seq_of(cursors[-1]) + 1}"
        async with await server.connect("u", lastEventId=ahead) as device:
            assert await payloads_until_live(device) == [0, 1]
            assert device.seen[1]["payload"] == {
                "requested": ahead,
                "missingThrough": None,
                "reason": "ahead",
            }
        async with await server.connect("u", lastEventId=cursors[-1]) as device:
            assert await payloads_until_live(device) == []
            assert [message["type"] for message in device.seen] == ["rt.welcome", "rt.live"]


@over_both
@pytest.mark.gen_test
async def test_a_cursor_outlives_the_server(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        cursors = await fill(server, "u", 3)
    async with harness(tmp_path) as server:
        async with await server.connect("u", lastEventId=cursors[0]) as device:
            assert await payloads_until_live(device) == [1, 2]
        more = await fill(server, "u", 1)
        assert seq_of(more[0]) == seq_of(cursors[-1]) + 1


@over_both
@pytest.mark.gen_test
async def test_a_backlog_of_many_pages_arrives_whole_while_more_is_emitted(tmp_path: Path) -> None:
    settings = {"delivery.replay_page": "50", "log.max_events_per_user": "0"}
    async with harness(tmp_path, settings) as server:
        await fill(server, "u", 2000)
        async with await server.connect("u", lastEventId="earliest") as device:
            emitting = asyncio.gather(
                *(server.emit({"userId": "u", "type": "L", "payload": n}) for n in range(100))
            )
            events: list[dict[str, Any]] = []
            while len(events) < 2100 or not any(m["type"] == "rt.live" for m in device.seen[2000:]):
                message = await device.next()
                if "id" in message:
                    events.append(message)
            await emitting
            previous = [device.seen[0]["payload"]["cursor"], *(e["id"] for e in events[:-1])]
            assert [event["prev"] for event in events] == previous
            assert [event["payload"] for event in events[:2000]] == list(range(2000))
            assert sum(message["type"] == "rt.live" for message in device.seen) == 1


@over_both
@pytest.mark.gen_test
async def test_a_device_that_stops_reading_falls_behind_and_loses_nothing(tmp_path: Path) -> None:
    body = "x" * 30_000
    async with harness(tmp_path, {"delivery.max_outbox": "128KiB"}) as server:
        slow = await server.connect("u")
        async with slow, await server.connect("u") as reading:
            await reading.until("rt.live")
            for number in range(400):
                answer = await server.emit(
                    {"userId": "u", "type": "A", "payload": {"n": number, "body": body}}
                )
                assert answer["delivered"] >= 1
                assert (await reading.next())["payload"]["n"] == number
            stats = await server.stats()
            assert stats["connections"]["behind"] == 1
            assert stats["outboxBytes"] <= 300 * 1024
            await slow.until("rt.live")
            received = [await slow.next() for _ in range(400)]
            assert [message["payload"]["n"] for message in received] == list(range(400))

            async def all_live() -> bool:
                return bool((await server.stats())["connections"]["behind"] == 0)

            await eventually(all_live)
            assert (await server.emit({"userId": "u", "type": "A"}))["delivered"] == 2


# Both


@pytest.mark.parametrize("v2", [True, False])
@pytest.mark.gen_test
async def test_the_text_ping_is_answered_with_the_text_pong(tmp_path: Path, *, v2: bool) -> None:
    async with harness(tmp_path) as server, await server.connect("u", v2=v2) as device:
        await device.send("ping")
        while (text := await device.text()) != "pong":
            assert text is not None


@pytest.mark.gen_test
async def test_a_silent_client_that_answers_pings_stays_and_one_that_does_not_is_ended(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path, {"delivery.heartbeat": "200ms"}) as server:
        reader, writer = await shake_hands(server, token("dead"))
        async with await server.connect("alive") as device:
            # Reading is what makes this client answer pings.
            answering = asyncio.create_task(device.until("SENTINEL"))
            # This one never answers; that it is ended shows in its end of file.
            received = await asyncio.wait_for(reader.read(), 20)
            assert b"101 Switching Protocols" in received
            assert b"\x89\x00" in received
            await server.emit({"userId": "alive", "type": "SENTINEL"})
            await answering
        writer.close()


@pytest.mark.gen_test
async def test_client_messages_go_to_the_hook_and_all_else_is_ignored_and_counted(
    tmp_path: Path,
) -> None:
    taken: list[ClientMessage] = []

    async def hook(message: ClientMessage) -> None:
        taken.append(message)
        if "fail" in message.message:
            raise ValueError("a hook's own fault")

    async with harness(tmp_path, on_message=hook) as server:
        async with await server.connect("u") as device:
            welcome = await device.next()
            for ignored in ("[]", "{}", "nonsense", '{"type":1}', b"\x00", '{"type":"rt.x"}', "1"):
                await device.send(ignored)
            await device.send('{"type":"fail"}')
            text = '{ "type": "cancel", "payload": {"job": 12345678901234567890} }'
            await device.send(text)
            await eventually(lambda: len(taken) == 2)
            connection = welcome["payload"]["connection"]
            assert taken[1] == ClientMessage("u", connection, text)
            assert (await server.stats())["clientMessages"] == {"received": 9, "ignored": 7}


@pytest.mark.gen_test
async def test_a_message_that_is_too_big_ends_the_connection_with_1009(tmp_path: Path) -> None:
    async with harness(tmp_path, {"delivery.max_client_message": "1KiB"}) as server:
        async with await server.connect("u") as device:
            await device.send(json.dumps({"type": "a", "payload": "x" * 2000}))
            assert (await device.closed())[0] == 1009


@over_both
@pytest.mark.gen_test
async def test_the_close_frame_arrives_behind_what_was_already_owed(tmp_path: Path) -> None:
    body = "x" * 30_000
    async with harness(tmp_path, {"delivery.max_client_message": "1KiB"}) as server:
        async with await server.connect("u") as device:
            for number in range(400):
                await server.emit({"userId": "u", "type": "A", "payload": [number, body]})
            assert (await server.stats())["outboxBytes"] > 0
            await device.send(json.dumps({"type": "a", "payload": body}))
            assert (await device.closed())[0] == 1009


@pytest.mark.gen_test
async def test_a_device_too_many_is_closed_with_1013_until_another_goes(tmp_path: Path) -> None:
    async with harness(tmp_path, {"server.max_connections": "1"}) as server:
        async with await server.connect("u") as first:
            await first.until("rt.live")
            async with await server.connect("v") as second:
                assert await second.closed() == (1013, "Server full")
        async with await server.connect("v") as third:
            await third.until("rt.live")


@pytest.mark.gen_test
async def test_a_client_that_goes_during_the_handshake_leaves_nothing_behind(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with harness(tmp_path) as server:
        for number in range(60):
            _, writer = await shake_hands(server, token("u"))
            if number % 3 == 0:
                writer.write_eof()
            elif number % 3 == 1:
                writer.transport.abort()
            writer.close()
        async with await server.connect("u") as device:
            await device.until("rt.live")

            async def only_this_one_is_left() -> bool:
                return bool((await server.stats())["connections"]["total"] == 1)

            await eventually(only_this_one_is_left)
    logged = capfd.readouterr()
    assert "Traceback" not in logged.out + logged.err


@pytest.mark.gen_test
async def test_a_refused_client_that_goes_on_talking_does_no_harm(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with harness(tmp_path) as server:
        reader, writer = await shake_hands(server, "bad")
        for text in (b"ping", b'{"type":"a"}', b'{"type":"rt.auth","payload":{"token":"x"}}'):
            writer.write(masked(0x1, text))
        writer.write(masked(0x8, b"\x03\xe8"))
        received = await asyncio.wait_for(reader.read(), 20)
        assert received.endswith(b"\x88\x17\x03\xf0Authentication failed")
        writer.close()
        assert (await server.stats())["clientMessages"] == {"received": 0, "ignored": 0}
    logged = capfd.readouterr()
    assert "Traceback" not in logged.out + logged.err
