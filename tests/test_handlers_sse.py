"""``GET /events``, over real sockets, read as the HTML standard says."""

import asyncio
import json
import ssl
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from archibald_rt import eventstream, streamdevice
from archibald_rt.auth import jwks
from archibald_rt.errors import LogBrokenError, LogUnavailableError
from archibald_rt.handlers import sse as handler
from archibald_rt.session import Session
from archibald_rt.sse import COMMENT, RETRY
from engines import Engine, over_both
from eventstreams import Listening, ask, listen
from issuer import Issuer, certificate_files, issuing, jwk, signed
from support import Harness, eventually, harness, silenced, token

GOING_AWAY = (1001, "Server going away")
TOO_MANY_CONNECTS = (1013, "Too many connects")
FOREIGN, ALLOWED = "https://evil.example", "https://app.example.com"
MANY = 100_000


@pytest.fixture
def issuer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Issuer]:
    monkeypatch.setattr(jwks, "ASKED_EVERY", 0.05)
    with issuing(jwk("P-256", kid="a")) as made:
        yield made


async def fill(server: Harness, user: str, count: int) -> list[str]:
    """Emit so many durable events with the payloads 0, 1, …; returns their cursors."""
    items = [{"userId": user, "type": "A", "payload": number} for number in range(count)]
    return [result["id"] for result in (await server.emit(items))["results"]]


def payloads(device: Listening) -> list[Any]:
    return [message["payload"] for message in device.seen if "id" in message]


def problem(device: Listening, body: bytes) -> dict[str, Any]:
    assert device.head["Content-Type"] == "application/problem+json"
    document: dict[str, Any] = json.loads(body)
    assert document["status"] == device.status
    return document


# What a device is told


@over_both
@pytest.mark.gen_test
async def test_a_device_that_does_not_resume_is_welcomed_and_live_at_once(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        cursors = await fill(server, "u", 3)
        async with await listen(server, "u") as device:
            welcome, live = await device.take(2)
            assert welcome["type"] == "rt.welcome"
            assert welcome["payload"] == {
                "cursor": cursors[-1],
                "connection": welcome["payload"]["connection"],
                "heartbeatMs": 15000,
                "replay": False,
            }
            assert device.events.retry == RETRY == 2000
            assert live["payload"] == {"cursor": cursors[-1], "replayed": 0}
            # Lost now, it would come back to this place.
            assert device.events.last_id == cursors[-1]


@over_both
@pytest.mark.gen_test
async def test_events_are_those_of_v2_byte_for_byte(tmp_path: Path) -> None:
    async with (
        harness(tmp_path) as server,
        await server.connect("u") as v2,
        await listen(server, "u") as device,
    ):
        await v2.until("rt.live")
        await device.until("rt.live")
        body = '{"userId":"u","type":"A","payload":{"n":1.00,\r\n\t"ü":"\u2028\\n"}}'
        assert (await server.post("/internal/emit", body.encode())).code == 200
        await server.emit({"userId": "u", "type": "A", "payload": "x" * 60_000})
        for _ in range(2):
            await device.next()
            assert await v2.text() == device.raw
        answer = await server.emit({"userId": "u", "type": "JOB_PROGRESS"})
        assert answer["delivered"] == 2
        # It has no id, and leaves the one before: `Listening` holds that of each event.
        assert list(await device.next()) == ["type", "payload", "timestamp"]
        assert await v2.text() == device.raw


@over_both
@pytest.mark.parametrize("by", ["header", "query", "header before query"])
@pytest.mark.gen_test
async def test_a_resume_brings_what_came_after_the_cursor_and_then_live(
    tmp_path: Path, by: str
) -> None:
    async with harness(tmp_path) as server:
        cursors = await fill(server, "u", 10)
        query = {"token": token("u")}
        if "query" in by:
            query["lastEventId"] = cursors[3] if by == "query" else "earliest"
        headers = {"Last-Event-ID": cursors[3]} if "header" in by else {}
        async with await ask(server, query, headers=headers) as device:
            welcome = await device.next()
            assert welcome["payload"]["cursor"] == cursors[3]
            assert welcome["payload"]["replay"] is True
            live = await device.until("rt.live")
            assert payloads(device) == [4, 5, 6, 7, 8, 9]
            assert live["payload"] == {"cursor": cursors[-1], "replayed": 6}
            await server.emit({"userId": "u", "type": "B"})
            await device.until("B")
        assert (await server.stats())["connections"]["resumed"] == 1


@over_both
@pytest.mark.gen_test
async def test_earliest_brings_all_that_is_retained_and_an_empty_header_counts_as_none(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path) as server:
        await fill(server, "u", 5)
        query = {"token": token("u"), "lastEventId": "earliest"}
        async with await ask(server, query, headers={"Last-Event-ID": ""}) as device:
            await device.until("rt.live")
            assert payloads(device) == [0, 1, 2, 3, 4]


@over_both
@pytest.mark.gen_test
async def test_a_cursor_that_cannot_be_used_is_told_as_it_came_and_all_retained_follows(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path) as server:
        first = (await fill(server, "u", 3))[0]
        for text in ("another:7", "schön", "x" * 300):
            # The standard has the header in UTF-8.
            header = {"Last-Event-ID": text.encode().decode("latin-1")}
            async with await ask(server, {"token": token("u")}, headers=header) as device:
                welcome, gap = await device.take(2)
                assert gap["payload"] == {
                    "requested": text[:200],
                    "missingThrough": None,
                    "reason": "epoch",
                }
                await device.until("rt.live")
                assert payloads(device) == [0, 1, 2]
                # The first event follows the place that the gap left the device at.
                assert device.seen[2]["id"] == first
                assert device.seen[2]["prev"] == welcome["payload"]["cursor"]


@over_both
@pytest.mark.gen_test
async def test_a_backlog_of_many_pages_arrives_whole_while_more_is_emitted(tmp_path: Path) -> None:
    async with harness(tmp_path, {"delivery.replay_page": "10"}) as server:
        await fill(server, "u", 300)
        async with await listen(server, "u", lastEventId="earliest") as device:
            for number in range(300, 320):
                await server.emit({"userId": "u", "type": "A", "payload": number})
            while len(payloads(device)) < 320:
                await device.next()
            assert payloads(device) == list(range(320))


@over_both
@pytest.mark.gen_test
async def test_a_device_that_stops_reading_falls_behind_and_loses_nothing(tmp_path: Path) -> None:
    async with harness(tmp_path, {"delivery.max_outbox": "64KiB"}) as server:
        query = {"token": token("u")}
        async with await ask(server, query, receive_buffer=4096) as device:
            await device.until("rt.live")
            device.pause()
            sent = 0

            async def behind() -> bool:
                nonlocal sent
                await server.emit({"userId": "u", "type": "A", "payload": [sent, "x" * MANY][:1]})
                await server.emit({"userId": "u", "type": "B", "payload": "x" * 60_000})
                sent += 1
                return bool((await server.stats())["connections"]["behind"])

            await eventually(behind)
            for step in ("a", "b", "c"):
                await server.emit(
                    {"userId": "u", "type": "JOB_PROGRESS", "payload": step, "conflate": "k"}
                )
            await server.emit({"userId": "u", "type": "END"})
            device.go_on()
            await device.until("END")
            kinds = [message["type"] for message in device.seen[2:]]
            # Of the events that were held for it the last stands in its place.
            assert kinds == ["A", "B"] * sent + ["JOB_PROGRESS", "END"]
            assert device.seen[-2]["payload"] == "c"
            assert [m["payload"] for m in device.seen if m["type"] == "A"] == [
                [number] for number in range(sent)
            ]
            await eventually(lambda: all_live(server))


async def all_live(server: Harness) -> bool:
    return not (await server.stats())["connections"]["behind"]


@pytest.mark.gen_test
async def test_comments_come_while_nothing_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamdevice, "COMMENT_EVERY", 0.05)
    # They have nothing to do with the heartbeat of others; the looks for stalls are as frequent.
    overrides = {"delivery.heartbeat": "0", "delivery.stall_timeout": "500ms"}
    async with harness(tmp_path, overrides) as server, await listen(server, "u") as device:
        for _ in range(5):
            await device.commented()
        await server.emit({"userId": "u", "type": "A"})
        await device.until("A")


@pytest.mark.gen_test
async def test_comments_do_not_pile_up_for_a_device_that_does_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamdevice, "COMMENT_EVERY", 0.05)
    overrides = {"delivery.heartbeat": "100ms", "delivery.stall_timeout": "0"}
    async with harness(tmp_path, overrides) as server, await listen(server, "v") as other:
        async with await ask(server, {"token": token("u")}, receive_buffer=4096) as device:
            await device.until("rt.live")
            device.pause()

            async def waits() -> bool:
                await server.emit({"userId": "u", "type": "B", "payload": "x" * 60_000})
                await other.commented()
                return await waiting() > 0

            async def waiting() -> int:
                return int((await server.stats())["outboxBytes"])

            await eventually(waits)
            before = await waiting()
            for _ in range(5):
                await other.commented()
            # The kernel may have taken more, and the other's is perhaps on its way.
            assert await waiting() <= before + len(COMMENT)


# Ends


@pytest.mark.gen_test
async def test_what_ends_it_is_the_last_event_behind_all_that_was_owed(tmp_path: Path) -> None:
    overrides = {"auth.leeway": "1s", "delivery.devices_per_user": "1"}
    async with harness(tmp_path, overrides) as server:
        expiring = token("u", exp=int(time.time()) + 1)
        async with await ask(server, {"token": expiring}) as device:
            assert await device.closed() == (4001, "Token expired")
            assert device.events.retry == RETRY
        async with await listen(server, "u") as device, await listen(server, "v") as other:
            await device.until("rt.live")
            await server.emit([{"userId": "u", "type": "A", "payload": n} for n in range(100)])
            # Of any kind: they count together.
            async with await server.connect("u"):
                assert await device.closed() == (4003, "Too many devices")
                assert payloads(device) == list(range(100))
                # It comes back by itself, in an hour, and pushes nobody out until then.
                assert device.events.retry == 3_600_000
            async with await listen(server, "u") as newest:
                await newest.until("rt.live")
                assert (await server.post("/internal/users/u/disconnect", b"{}")).code == 200
                assert await newest.closed() == (4002, "Disconnected")
            await server.emit({"userId": "v", "type": "A"})
            await other.until("A")
        stats = await server.stats()
        assert stats["limits"]["devices"] == 1
        await eventually(lambda: nobody(server))


async def nobody(server: Harness) -> bool:
    return bool((await server.stats())["connections"]["total"] == 0)


@over_both
@pytest.mark.gen_test
async def test_a_revoked_device_is_handed_nothing_more(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        query = {"token": token("u", jti="one", iat=1)}
        async with await ask(server, query, receive_buffer=4096) as device:
            await device.until("rt.live")
            device.pause()

            async def waits() -> bool:
                await server.emit({"userId": "u", "type": "B", "payload": "x" * 60_000})
                return bool((await server.stats())["outboxBytes"])

            await eventually(waits)
            answer = await server.post(
                "/internal/tokens/revoke", b'{"jti":"one","expires":"2100-01-01T00:00:00Z"}'
            )
            assert json.loads(answer.body) == {"disconnected": 1}
            await server.emit({"userId": "u", "type": "SECRET"})
            device.go_on()
            # In the middle of an event nothing can be said.
            assert await device.closed() is None
            assert "SECRET" not in [message["type"] for message in device.seen]
        again = await ask(server, query)
        assert again.status == 401
        await again.close()


@pytest.mark.gen_test
async def test_a_device_that_is_owed_something_and_stalls_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eventstream, "CLOSING", 0.1)
    # By what a WebSocket is ended by, and not by the kernel.
    monkeypatch.setattr(handler, "GONE_AFTER", 0)
    overrides = {"delivery.stall_timeout": "500ms", "delivery.max_outbox": "256KiB"}
    async with harness(tmp_path, overrides) as server:
        await server.emit([{"userId": "u", "type": "A", "payload": "x" * 60_000}] * 100)
        query = {"token": token("u"), "lastEventId": "earliest"}
        async with await ask(server, query, receive_buffer=4096) as device:
            device.pause()
            await eventually(lambda: nobody(server))
            await eventually(lambda: all_given_back(server))
            device.go_on()
            assert await device.closed() is None


async def all_given_back(server: Harness) -> bool:
    return bool((await server.stats())["outboxTotal"]["bytes"] == 0)


@pytest.mark.gen_test
async def test_a_device_that_acknowledges_nothing_is_found_out_by_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamdevice, "COMMENT_EVERY", 0.05)
    overrides = {"delivery.heartbeat": "100ms", "delivery.stall_timeout": "500ms"}
    async with harness(tmp_path, overrides) as server:
        async with await ask(server, {"token": token("u")}, receive_buffer=4096) as device:
            await device.until("rt.live")
            device.pause()
            # More than its end has room for, and less than the server's has.
            await server.emit({"userId": "u", "type": "A", "payload": "x" * 30_000})
            assert (await server.stats())["outboxBytes"] == 0
            await eventually(lambda: nobody(server))


@pytest.mark.gen_test
async def test_a_device_that_goes_is_noticed(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        for leave in (Listening.drop, Listening.close):
            device = await listen(server, "u")
            await device.until("rt.live")
            assert not await nobody(server)
            if (leaving := leave(device)) is not None:
                await leaving
            await eventually(lambda: nobody(server))


@over_both
@pytest.mark.gen_test
async def test_a_drain_says_when_to_come_back_and_then_ends_it(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        device = await listen(server, "u")
        await device.until("rt.live")
    reconnect = await device.until("rt.reconnect")
    assert device.events.retry == reconnect["payload"]["afterMs"] <= 5000
    assert await device.closed() == GOING_AWAY
    assert device.events.retry == reconnect["payload"]["afterMs"]
    await device.close()


@over_both
@pytest.mark.parametrize(
    ("error", "end"),
    [
        (LogUnavailableError("busy"), (1013, "Log unavailable")),
        (LookupError(), (1011, "Internal error")),
        (LogBrokenError("damaged"), (1013, "Log unavailable")),
    ],
)
@pytest.mark.gen_test
async def test_a_log_that_cannot_be_read_ends_it_with_a_reason(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine: Engine,
    error: Exception,
    end: tuple[int, str],
) -> None:
    async def failing(*_args: object, **_options: object) -> None:
        raise error

    async with harness(tmp_path) as server:
        await fill(server, "u", 3)
        with monkeypatch.context() as patch, silenced("archibald_rt.realtime"):
            patch.setattr(engine.log, "page", failing)
            async with await listen(server, "u", lastEventId="earliest") as device:
                assert await device.closed() == end
                assert device.events.retry is not None
                assert (device.events.retry > RETRY) is (end[0] == 1013)


@pytest.mark.gen_test
async def test_a_fault_while_it_is_let_in_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_args: object) -> None:
        raise LookupError

    async with harness(tmp_path) as server:
        with monkeypatch.context() as patch, silenced("archibald_rt.handlers"):
            patch.setattr(Session, "start", failing)
            with pytest.raises(asyncio.IncompleteReadError):
                await listen(server, "u")
        await eventually(lambda: nobody(server))
        async with await listen(server, "u") as device:
            await device.until("rt.live")


# Who is not let in


@pytest.mark.parametrize(
    "bad",
    ["", "no.jwt.at-all", token("u", secret="x" * 32), token("u", exp=1), token("x" * 257)],
)
@pytest.mark.gen_test
async def test_a_bad_token_is_refused_with_401_and_counted_whatever_is_wrong_with_it(
    tmp_path: Path, bad: str
) -> None:
    async with harness(tmp_path) as server:
        async with await ask(server, {"token": bad}) as device:
            assert device.status == 401
            assert device.head["WWW-Authenticate"] == "Bearer"
            assert "Connection" not in device.head
        stats = await server.stats()
        assert stats["connections"]["refused"] == 1
        assert sum(stats["connections"]["refusedFor"].values()) == 1


@pytest.mark.gen_test
async def test_a_token_is_taken_from_query_or_header_and_the_first_found_counts(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path) as server:
        header = {"Authorization": f"Bearer {token('u')}"}
        async with await ask(server, {}, headers=header) as device:
            await device.until("rt.live")
        async with await ask(server, {"token": "wrong"}, headers=header) as device:
            assert device.status == 401


@pytest.mark.gen_test
async def test_a_device_whose_key_was_just_published_waits_for_it_and_is_let_in(
    tmp_path: Path, issuer: Issuer
) -> None:
    overrides = {"auth.jwks_url": issuer.url, "auth.algorithms": "HS256, ES256"}
    async with harness(tmp_path, overrides) as server:
        issuer.publish(jwk("P-256", kid="a"), jwk("P-256", 1, kid="b"))
        async with await ask(server, {"token": signed("P-256", "u", 1, kid="b")}) as device:
            assert device.status == 200
            await device.until("rt.live")
        async with await ask(server, {"token": signed("P-256", "u", 2, kid="c")}) as device:
            assert device.status == 401
        await eventually(lambda: nobody(server))


@pytest.mark.gen_test
async def test_who_is_one_too_many_is_told_to_come_back_later(tmp_path: Path) -> None:
    overrides = {"server.max_connections": "1", "delivery.connects_per_user_per_minute": "2"}
    async with harness(tmp_path, overrides) as server:
        async with await listen(server, "u") as first:
            await first.until("rt.live")
            async with await listen(server, "v") as device:
                assert await device.closed() == (1013, "Server full")
                assert device.events.retry is not None
                assert 5000 <= device.events.retry <= 15_000
                # It was never welcomed, and keeps no place of another connection.
                assert device.events.last_id == ""
        await eventually(lambda: nobody(server))
        for expected in (None, TOO_MANY_CONNECTS):
            async with await listen(server, "u") as device:
                if expected is None:
                    await device.until("rt.live")
                else:
                    assert await device.closed() == expected
                    assert len(device.seen) == 1
            await eventually(lambda: nobody(server))
        assert (await server.stats())["limits"]["connects"] == 1


@pytest.mark.gen_test
async def test_an_address_that_connects_too_often_is_told_so_whatever_its_token(
    tmp_path: Path,
) -> None:
    overrides = {"server.connects_per_address_per_minute": "2"}
    async with harness(tmp_path, overrides) as server:
        async with await listen(server, "u"), await server.connect("u"):
            for text in (token("u"), "bad"):
                async with await ask(server, {"token": text}) as device:
                    assert device.status == 200
                    assert await device.closed() == TOO_MANY_CONNECTS
        stats = await server.stats()
        assert stats["limits"]["connects"] == 2
        assert stats["connections"]["refused"] == 0


@pytest.mark.gen_test
async def test_a_request_read_while_the_server_drains_is_told_to_come_back(tmp_path: Path) -> None:
    async with harness(tmp_path, {"server.drain": "20s"}) as server:
        at = urlsplit(server.server.public_url)
        # It begins before the drain, and goes on when that is known to have begun.
        reader, writer = await asyncio.open_connection(at.hostname, at.port)
        writer.write(f"GET /events?token={token('u')} HTTP/1.1\r\n".encode())
        async with await listen(server, "v") as other, asyncio.TaskGroup() as tasks:
            await other.until("rt.live")
            tasks.create_task(server.server.drain())  # type: ignore[attr-defined]  # of a server in this process
            await other.until("rt.reconnect")
            device = Listening(reader, writer)
            await device.shake_hands(b"Host: x\r\n\r\n")
            assert await device.closed() == GOING_AWAY
            assert device.events.retry is not None
            assert 0 <= device.events.retry <= 5000
            await device.close()


@pytest.mark.gen_test
async def test_a_drain_sends_home_who_waits_for_a_key(tmp_path: Path, issuer: Issuer) -> None:
    overrides = {"auth.jwks_url": issuer.url, "auth.algorithms": "HS256, ES256"}
    issuer.stall()
    async with harness(tmp_path, {**overrides, "server.drain": "2s"}) as server:
        waiting = asyncio.create_task(ask(server, {"token": signed("P-256", "u", 1, kid="b")}))
        await eventually(lambda: issuer.requests == 1)
        # The end of the server waits for the fetch that is under way.
        waiting.add_done_callback(lambda _: issuer.let_go.set())
    device = await waiting
    assert device.status == 200
    assert await device.closed() == GOING_AWAY
    await device.close()


# Pages and methods


@pytest.mark.gen_test
async def test_pages_of_allowed_origins_can_read_it_and_its_refusals(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with harness(tmp_path, {"server.allowed_origins": ALLOWED}) as server:
        own = server.server.public_url
        for origin in (ALLOWED, own):
            for text, status in ((token("u"), 200), ("bad", 401)):
                async with await ask(server, {"token": text}, headers={"Origin": origin}) as device:
                    assert device.status == status
                    assert device.head["Access-Control-Allow-Origin"] == origin
                    assert device.head["Vary"] == "Origin"
                    # The token is what counts, and never a cookie.
                    assert "Access-Control-Allow-Credentials" not in device.head
        async with await ask(server, {"token": token("u")}) as device:
            assert "Access-Control-Allow-Origin" not in device.head
            assert device.head["Vary"] == "Origin"
        for _ in range(3):
            for method in ("GET", "OPTIONS", "HEAD", "POST"):
                headers = {"Origin": FOREIGN, "Connection": "close"}
                async with await ask(
                    server, {"token": token("u")}, headers=headers, method=method
                ) as device:
                    assert device.status == 403
                    assert "Access-Control-Allow-Origin" not in device.head
                    body = await device.body()
                    assert method == "HEAD" or problem(device, body)["field"] == "Origin"
    logged = capfd.readouterr()
    assert (logged.out + logged.err).count(f"allowed_origins = {FOREIGN}") == 1


@pytest.mark.gen_test
async def test_a_browser_is_told_what_its_pages_may_send(tmp_path: Path) -> None:
    async with harness(tmp_path, {"server.allowed_origins": ALLOWED}) as server:
        for origin in (ALLOWED, None):
            headers = {} if origin is None else {"Origin": origin}
            headers["Access-Control-Request-Method"] = "GET"
            headers["Access-Control-Request-Headers"] = "authorization,last-event-id"
            async with await ask(server, {}, headers=headers, method="OPTIONS") as device:
                assert device.status == 204
                assert device.head["Allow"] == "GET, HEAD, OPTIONS"
                told = device.head.get("Access-Control-Allow-Headers", "").lower()
                assert ("authorization" in told) is (origin is not None)
                assert ("last-event-id" in told) is (origin is not None)
        # It has no token, and counts for nobody.
        assert (await server.stats())["connections"]["refused"] == 0


@pytest.mark.gen_test
async def test_head_says_what_get_would_and_other_methods_are_refused(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        for text, status in ((token("u"), 200), ("bad", 401)):
            async with await ask(server, {"token": text}, method="HEAD") as device:
                assert device.status == status
                if status == 200:
                    assert device.head["Content-Type"].startswith("text/event-stream")
                    assert "Content-Length" not in device.head
                    assert await device.body() == b""
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            own = server.server.public_url
            headers = {"Connection": "close", "Content-Length": "0", "Origin": own}
            async with await ask(
                server, {"token": token("u")}, method=method, headers=headers
            ) as device:
                assert device.status == 405
                assert device.head["Allow"] == "GET, HEAD, OPTIONS"
                # What is made of an error begins its headers anew.
                assert device.head["Access-Control-Allow-Origin"] == own
                problem(device, await device.body())
        assert await nobody(server)


@pytest.mark.gen_test
async def test_a_client_of_http_1_0_reads_events(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        async with await ask(server, {"token": token("u")}, version="1.0") as device:
            await device.until("rt.live")
            await server.emit({"userId": "u", "type": "A"})
            await device.until("A")


@pytest.mark.gen_test
async def test_it_is_served_by_tls(tmp_path: Path) -> None:
    cert, key = certificate_files(tmp_path)
    overrides = {"server.tls_cert": str(cert), "server.tls_key": str(key)}
    async with harness(tmp_path, overrides) as server:
        server.tls = ssl.create_default_context(cafile=str(cert))
        await fill(server, "u", 1000)
        async with await listen(server, "u", lastEventId="earliest") as device:
            await device.until("rt.live")
            assert payloads(device) == list(range(1000))
            await server.post("/internal/users/u/disconnect", b"{}")
            assert await device.closed() == (4002, "Disconnected")


# Among the others


@pytest.mark.gen_test
async def test_it_is_listed_and_counted_with_the_others(tmp_path: Path) -> None:
    async with harness(tmp_path) as server, AsyncExitStack() as stack:
        await stack.enter_async_context(await server.connect("u"))
        await stack.enter_async_context(await server.connect("u", v2=False))
        await stack.enter_async_context(await listen(server, "u", lastEventId="earliest"))
        listed = json.loads((await server.get("/internal/connections")).body)["connections"]
        kinds = [(each["transport"], each["protocol"]) for each in listed]
        assert kinds == [("websocket", "v2"), ("websocket", "v1"), ("sse", "sse")]
        admin = token("admin", role="admin")
        health = await server.get("/api/websocket/health", bearer=admin, public=True)
        stats = json.loads(health.body)["stats"]
        assert stats["totalConnections"] == 3
        assert stats["connectionsPerUser"] == {"u": 3}
        assert stats["reconnectionCount"] == 1


@over_both
@pytest.mark.gen_test
async def test_each_kind_of_device_gets_its_own_users_events_and_no_others(tmp_path: Path) -> None:
    async with (
        harness(tmp_path) as server,
        await listen(server, "u") as mine,
        await listen(server, "v") as other,
    ):
        await server.emit({"userId": "u", "type": "SECRET"})
        await server.emit({"type": "NEWS"}, "broadcast")
        await mine.until("SECRET")
        await mine.until("NEWS")
        await other.until("NEWS")
        assert "SECRET" not in [message["type"] for message in other.seen]
