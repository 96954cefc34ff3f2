"""``/internal/users/<id>/events``, over real sockets and a real log."""

import asyncio
import contextlib
import json
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.web import Application

from archibald_rt.auth import BearerTokens
from archibald_rt.errors import LogUnavailableError
from archibald_rt.eventlog import EventLog, Page
from archibald_rt.eventlog.sqlite import SQLiteLog, open_sqlite
from archibald_rt.events import Emission
from archibald_rt.handlers.users import PAGE_BYTES, UserEventsHandler
from archibald_rt.http1.listener import Listener
from archibald_rt.hub import Hub
from archibald_rt.listen import Endpoint, url_of
from archibald_rt.requestids import RequestIds
from engines import Engine, over_both
from processes import ServerProcess, serving
from support import (
    EMIT_TOKEN,
    READ_TOKEN,
    Harness,
    eventually,
    harness,
    problem_of,
    settings_for,
)

E_ACUTE, E_AND_ACUTE = "\xe9", "e\u0301"
"""One letter in two normal forms."""


def path(user: str, **query: object) -> str:
    """Return the path of a user's events, percent-encoded."""
    return f"/internal/users/{quote(user, safe='')}/events?{urlencode(query)}"


async def page(server: Harness, user: str, **query: object) -> dict[str, Any]:
    response = await server.get(path(user, **query))
    assert response.code == 200, response.body
    assert response.headers["Content-Type"] == "application/json"
    answer: dict[str, Any] = json.loads(response.body)
    assert list(answer) == ["events", "next"]
    return answer


def payloads(answer: dict[str, Any]) -> list[object]:
    return [event["payload"] for event in answer["events"]]


async def batch(server: Harness, count: int, user: str = "u") -> list[str]:
    """Emit so many durable events, numbered from 0; return their ids."""
    items = [{"userId": user, "type": "A", "payload": n} for n in range(count)]
    return [result["id"] for result in (await server.emit(items))["results"]]


@over_both
@pytest.mark.gen_test
async def test_a_users_events_and_the_broadcasts_come_in_the_order_of_their_commits(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path) as server:
        first = await server.emit({"userId": "u", "type": "A", "timestamp": "2026-01-01T00:00:00Z"})
        await server.emit({"userId": "other", "type": "NOT_OURS"})
        await server.emit({"userId": "u", "type": "JOB_PROGRESS"})
        everybody = await server.emit({"type": "B", "durable": True}, "broadcast")
        await server.emit({"type": "TRANSIENT"}, "broadcast")
        last = await server.emit({"userId": "u", "type": "C", "payload": {"n": 1}})
        answer = await page(server, "u")
        assert answer["events"][0] == {
            "id": first["id"],
            "type": "A",
            "payload": None,
            "timestamp": "2026-01-01T00:00:00Z",
        }
        ids = [event["id"] for event in answer["events"]]
        assert ids == [first["id"], everybody["id"], last["id"]]
        assert [event["type"] for event in answer["events"]] == ["A", "B", "C"]
        assert answer["next"] is None
        nobody = await page(server, "nobody")
        assert [event["type"] for event in nobody["events"]] == ["B"]


@over_both
@pytest.mark.gen_test
async def test_a_user_without_events_is_no_error(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        response = await server.get(path("nobody"))
        assert response.code == 200
        assert response.body == b'{"events":[],"next":null}'


@over_both
@pytest.mark.gen_test
async def test_payloads_are_spelled_as_they_were_emitted(tmp_path: Path) -> None:
    payload = (
        b'{"z": 12345678901234567890123456789, "a": 1.00, "c": 1E5, "d": -0.0, "b": [ ],'
        b' "e": "\\u00e9\\/\xc3\xa9\xf0\x9f\x98\x80", "a": 2}'
    )
    stamp = "2026-01-01T00:00:00.123456789+05:30"
    body = b'{"userId":"u","type":"T\\u00e9","timestamp":"%b","payload":%b}'
    async with harness(tmp_path) as server:
        answer = await server.post("/internal/emit", body % (stamp.encode(), payload))
        cursor = json.loads(answer.body)["id"]
        response = await server.get(path("u"))
        expected = '{"id":"%s","type":"T\xe9","payload":%s,"timestamp":"%s"}'
        event = expected % (cursor, payload.decode(), stamp)
        assert response.body.decode() == f'{{"events":[{event}],"next":null}}'


@over_both
@pytest.mark.gen_test
async def test_pages_go_on_after_next_until_it_is_null(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        await batch(server, 4)
        await batch(server, 3, "other")
        await batch(server, 3)
        query: dict[str, object] = {"limit": 3}
        seen = []
        while True:
            answer = await page(server, "u", **query)
            seen.append(payloads(answer))
            if answer["next"] is None:
                break
            assert answer["next"] == answer["events"][-1]["id"]
            query["after"] = answer["next"]
        assert seen == [[0, 1, 2], [3, 0, 1], [2]]


@over_both
@pytest.mark.parametrize("followed", [False, True])
@pytest.mark.gen_test
async def test_a_page_that_is_full_where_the_stream_ends_has_no_next(
    tmp_path: Path, *, followed: bool
) -> None:
    async with harness(tmp_path) as server:
        ids = await batch(server, 4)
        if followed:
            # The log goes on, the stream doesn't.
            await batch(server, 1, "other")
        assert (await page(server, "u", limit=4))["next"] is None
        assert (await page(server, "u", limit=2, after=ids[1]))["next"] is None
        assert (await page(server, "u", limit=3))["next"] == ids[2]


@over_both
@pytest.mark.gen_test
async def test_a_hundred_events_come_unless_up_to_a_thousand_are_asked_for(tmp_path: Path) -> None:
    async with harness(tmp_path, {"log.max_events_per_user": "0"}) as server:
        ids = await batch(server, 1000)
        await server.emit({"userId": "u", "type": "A", "payload": 1000})
        hundred = await page(server, "u")
        assert payloads(hundred) == list(range(100))
        assert hundred["next"] == ids[99]
        assert payloads(await page(server, "u", limit=1)) == [0]
        thousand = await page(server, "u", limit=1000)
        assert payloads(thousand) == list(range(1000))
        assert payloads(await page(server, "u", after=thousand["next"])) == [1000]


@pytest.mark.parametrize("limit", ["0", "1001", "10000", "-1", "+1", "1.0", "01", "ten", "", "١"])
@pytest.mark.gen_test
async def test_any_other_limit_is_refused_and_named(tmp_path: Path, limit: str) -> None:
    async with harness(tmp_path) as server:
        response = await server.get(path("u", limit=limit))
        assert response.code == 400
        assert problem_of(response)["field"] == "limit"


@over_both
@pytest.mark.gen_test
async def test_after_is_any_place_in_this_log(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        ids = await batch(server, 2)
        (others,) = await batch(server, 1, "other")
        await batch(server, 1)
        assert payloads(await page(server, "u", after="")) == [0, 1, 0]
        assert payloads(await page(server, "u", after=ids[0].replace(":1", ":0"))) == [0, 1, 0]
        assert payloads(await page(server, "u", after=ids[0])) == [1, 0]
        assert payloads(await page(server, "u", after=others)) == [0]
        head = (await server.stats())["log"]
        end = f"{head['epoch']}:{head['head']}"
        assert await page(server, "u", after=end) == {"events": [], "next": None}


@over_both
@pytest.mark.gen_test
async def test_an_after_that_is_no_place_in_this_log_is_refused_and_named(
    tmp_path: Path, engine: Engine
) -> None:
    async with harness(tmp_path) as server:
        await batch(server, 2)
        epoch = (await server.stats())["log"]["epoch"]
        for after in (
            "another0epoch:1",
            "earliest",
            "1",
            f"{epoch}:",
            f"{epoch}:-1",
            f"{epoch}:1\n",
            "\x00",
            *([f"{epoch}:3", f"{epoch}:{2**63}"] if engine.alone else ()),
        ):
            response = await server.get(path("u", after=after))
            assert response.code == 400, after
            assert problem_of(response)["field"] == "after"


@over_both
@pytest.mark.gen_test
async def test_users_whose_ids_look_alike_stay_apart(tmp_path: Path) -> None:
    users = [
        *("a/b", "a%2Fb", "*", "%", "%2A", "+", " ", ".", "..", "?", "#", "a;b", "'", "ada", "Ada"),
        *(E_ACUTE, E_AND_ACUTE, "\U0001f600", "\u2028", "\xa0", "events", "u" * 256),
        "\U0001f600" * 256,
    ]
    async with harness(tmp_path) as server:
        for user in users:
            await server.emit({"userId": user, "type": "A", "payload": user})
        for user in users:
            assert payloads(await page(server, user)) == [user]
        # However much of it is encoded, as long as it is right.
        for segment, user in (("%61%2fb", "a/b"), ("+", "+"), ("a;b", "a;b"), ("*", "*")):
            response = await server.get(f"/internal/users/{segment}/events")
            assert payloads(json.loads(response.body)) == [user]


@pytest.mark.parametrize(
    "segment",
    [
        "",
        "%00",
        "a%0Ab",
        "%7F",
        "%C2%85",
        "u" * 257,
        "%F0%9F%98%80" * 257,
        "%FF",
        "%C3",
        "%ED%A0%80",
        "%C0%AF",
        "%",
        "%2",
        "%zz",
        "%u00e9",
    ],
)
@pytest.mark.gen_test
async def test_what_is_no_user_id_is_refused_and_named(tmp_path: Path, segment: str) -> None:
    async with harness(tmp_path) as server:
        response = await server.get(f"/internal/users/{segment}/events")
        assert response.code == 400
        problem = problem_of(response)
        assert problem["field"] == "userId"
        assert problem["detail"].startswith("userId: expected ")


@pytest.mark.gen_test
async def test_a_user_id_that_is_not_encoded_is_not_taken_for_another(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        at = urlsplit(server.server.internal_url)
        reader, writer = await asyncio.open_connection(at.hostname, at.port)
        head = f"GET /internal/users/{E_ACUTE}/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        writer.write(f"{head}Authorization: Bearer {EMIT_TOKEN}\r\n\r\n".encode())
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"percent-encoded" in answer
        writer.close()


@pytest.mark.gen_test
async def test_events_are_for_those_with_a_token(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        for bearer, code in ((EMIT_TOKEN, 200), (READ_TOKEN, 200), (None, 401), ("wrong", 401)):
            assert (await server.get(path("u"), bearer=bearer)).code == code
            # Nothing else is said to those without a token.
            bad = await server.get("/internal/users/%FF/events?limit=0", bearer=bearer)
            assert bad.code == (400 if code == 200 else 401)
        assert (await server.get(path("u"), public=True)).code == 404
        refused = await server.post(path("u"), b"{}")
        assert refused.code == 405
        assert refused.headers["Allow"] == "GET, DELETE"
        for other in ("/internal/users/u", "/internal/users/a/b/events", "/internal/users"):
            assert (await server.get(other)).code == 404


@over_both
@pytest.mark.gen_test
async def test_a_page_of_large_events_ends_before_its_limit(tmp_path: Path) -> None:
    large, count = "x" * 60_000, 150
    async with harness(tmp_path) as server:
        for start in range(0, count, 50):
            items = [{"userId": "u", "type": "A", "payload": [start + n, large]} for n in range(50)]
            await server.emit(items)
        numbers: list[object] = []
        after: str | None = ""
        while after is not None:
            answer = await page(server, "u", limit=1000, after=after)
            size = sum(len(json.dumps(event)) for event in answer["events"])
            assert size < PAGE_BYTES + 100_000
            numbers.extend(event["payload"][0] for event in answer["events"])
            after = answer["next"]
            assert after is None or size > PAGE_BYTES - 100_000
        assert numbers == list(range(count))


class Unreadable:
    """The real log, until it is made to fail as one does whose reads fail for a while."""

    def __init__(self, log: SQLiteLog) -> None:
        self._log = log
        self.failing: Exception | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)

    async def page(self, *args: Any, **kwargs: Any) -> Page:
        if self.failing is not None:
            raise self.failing
        return await self._log.page(*args, **kwargs)


@asynccontextmanager
async def answering(hub: Hub, log: EventLog) -> AsyncIterator[str]:
    """Serve just the handler; yields the address."""
    tokens = {"emit_tokens": BearerTokens([EMIT_TOKEN]), "read_tokens": BearerTokens([])}
    broken: list[BaseException] = []
    given = {**tokens, "hub": hub, "log": log, "upkeep": None, "broken": broken.append}
    routes = [(r"/internal/users/[^/]*/events", UserEventsHandler, given)]
    listener = Listener(Application(routes, request_ids=RequestIds()))
    sockets = Endpoint("127.0.0.1", 0).bind()
    listener.add_sockets(sockets)
    yield url_of(sockets)
    listener.stop()
    await listener.over(0)
    assert broken == []


async def fetched(url: str) -> HTTPResponse:
    headers = {"Authorization": f"Bearer {EMIT_TOKEN}"}
    return await AsyncHTTPClient().fetch(url, headers=headers, raise_error=False)


def numbered(number: int) -> Emission:
    stamp = "2026-01-01T00:00:00Z"
    tail = b'"type":"A","payload":%d,"timestamp":"%b"}' % (number, stamp.encode())
    return Emission("u", tail, stamp, 0, durable=True)


@pytest.mark.gen_test
async def test_what_is_committed_comes_once_it_is_dispatched(tmp_path: Path) -> None:
    async with open_sqlite(tmp_path / "events.db") as log:
        hub = Hub(log.head, recent=1000)
        await log.append([[numbered(number) for number in range(1, 4)]])
        await hub.dispatch(numbered(1), 1)
        await hub.dispatch(numbered(2), 2)
        async with answering(hub, log) as url:
            answer = json.loads((await fetched(url + path("u", limit=2))).body)
            assert payloads(answer) == [1, 2]
            assert answer["next"] is None
            await hub.dispatch(numbered(3), 3)
            answer = json.loads((await fetched(url + path("u", limit=2))).body)
            assert answer["next"] == answer["events"][-1]["id"]
            after = await fetched(url + path("u", after=answer["next"]))
            assert payloads(json.loads(after.body)) == [3]


@pytest.mark.gen_test
async def test_while_the_log_cannot_be_read_the_answer_is_503_and_when_to_try_again(
    tmp_path: Path,
) -> None:
    async with open_sqlite(tmp_path / "events.db") as real:
        log = Unreadable(real)
        async with answering(Hub(0, recent=1000), log) as url:  # type: ignore[arg-type]  # what it does not define, it passes on
            log.failing = LogUnavailableError("the log is unavailable: out of memory")
            refused = await fetched(url + path("u"))
            assert refused.code == 503
            assert int(refused.headers["Retry-After"]) >= 1
            assert "out of memory" in problem_of(refused)["detail"]
            log.failing = None
            assert (await fetched(url + path("u"))).code == 200


def test_a_damaged_log_is_answered_503_and_ends_the_server(tmp_path: Path) -> None:
    with serving(tmp_path) as process:
        asyncio.run(_fill(process))
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    log = tmp_path / "events.db"
    with contextlib.closing(sqlite3.connect(log)) as connection:
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        found = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'events'")
        (root,) = found.fetchone()
    with log.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)
    # Pruning would meet the damage first.
    with serving(tmp_path, {"ARCHIBALD_RT_LOG_PRUNE_EVERY": "0"}) as process:
        answer = asyncio.run(_events(process))
        assert answer.code == 503
        assert int(answer.headers["Retry-After"]) >= 1
        assert "SQLITE_CORRUPT" in problem_of(answer)["detail"]
        assert process.wait() == 1
        assert "can't be relied on" in process.rest()


async def _fill(process: ServerProcess) -> None:
    server = Harness(process, settings_for(Path()))
    await server.emit([{"userId": "u", "type": "A", "payload": "x" * 50_000} for _ in range(100)])


async def _events(process: ServerProcess) -> HTTPResponse:
    return await Harness(process, settings_for(Path())).get(path("u"))


def test_requests_that_outlast_a_drain_are_given_up_without_a_fault(tmp_path: Path) -> None:
    with serving(tmp_path) as process:
        asyncio.run(_fill(process))
    given_up = 0
    # On a machine that halts just then, all are answered before the signal comes: again then.
    for _ in range(10):
        with serving(tmp_path, {"ARCHIBALD_RT_SERVER_DRAIN": "0s"}) as process:
            given_up = asyncio.run(_stopped_amid_requests(process))
            rest = process.rest()
            assert process.wait() == 0
            assert "fault" not in rest
            assert "relied" not in rest
        if given_up:
            break
    assert given_up


async def _stopped_amid_requests(process: ServerProcess) -> int:
    """End a server at the first of far more pages than are read at a time.

    Returns how many of them got nothing.
    """
    at = urlsplit(process.internal_url)
    head = f"GET {path('u', limit=1000)} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
    async with contextlib.AsyncExitStack() as open_ones:
        readers = []
        for _ in range(100):
            reader, writer = await asyncio.open_connection(at.hostname, at.port)
            open_ones.callback(writer.close)
            writer.write(f"{head}{EMIT_TOKEN}\r\n\r\n".encode())
            readers.append(reader)
        assert (await readers[0].readline()).startswith(b"HTTP/1.1 200")
        process.signal(signal.SIGTERM)
        ends = [asyncio.create_task(_end(reader)) for reader in readers]
        await eventually(lambda: all(end.done() for end in ends))
        return sum(end.result() == 0 for end in ends)


async def _end(reader: asyncio.StreamReader) -> int:
    """Return how many bytes come to the connection's end."""
    count = 0
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(64 * 1024):
            count += len(piece)
    return count


# Erasing


async def erase(server: Harness, user: str) -> dict[str, Any]:
    response = await server.delete(f"/internal/users/{quote(user, safe='')}/events")
    assert response.code == 200, response.body
    answer: dict[str, Any] = json.loads(response.body)
    return answer


@over_both
@pytest.mark.gen_test
async def test_a_users_own_events_are_erased_and_nothing_else(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        await batch(server, 120)
        await batch(server, 3, "other")
        await server.emit({"type": "B", "durable": True}, "broadcast")
        assert await erase(server, "u") == {"erased": 120}
        assert [event["type"] for event in (await page(server, "u"))["events"]] == ["B"]
        assert len((await page(server, "other"))["events"]) == 4
        assert await erase(server, "u") == {"erased": 0}
        assert await erase(server, "nobody") == {"erased": 0}
        assert (await server.stats())["log"]["erased"] == 120


@over_both
@pytest.mark.gen_test
async def test_a_device_sees_what_was_erased_as_expired_and_one_that_had_it_sees_nothing(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path) as server, await server.connect("u") as live:
        start = (await live.next())["payload"]["cursor"]
        await live.until("rt.live")
        # What is left in front of it hides no loss.
        await batch(server, 1, "other")
        ids = await batch(server, 5)
        await live.take(5)
        await erase(server, "u")
        later = await server.emit({"userId": "u", "type": "LATER"})
        assert (await live.next())["id"] == later["id"]
        async with await server.connect("u", lastEventId=start) as device:
            welcome, gap, event, live_again = await device.take(4)
            assert welcome["type"] == "rt.welcome"
            assert gap["payload"] == {
                "requested": start,
                "missingThrough": ids[-1],
                "reason": "expired",
            }
            assert event["id"] == later["id"]
            assert live_again["type"] == "rt.live"


@over_both
@pytest.mark.gen_test
async def test_what_was_emitted_before_the_erasure_goes_and_what_comes_after_it_stays(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path) as server:
        for _ in range(10):
            await batch(server, 50)
            await erase(server, "u")
            assert (await page(server, "u"))["events"] == []
        (last,) = await batch(server, 1)
        assert [event["id"] for event in (await page(server, "u"))["events"]] == [last]


@over_both
@pytest.mark.gen_test
async def test_an_erased_key_can_be_used_anew(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        await server.emit({"userId": "u", "type": "A", "payload": 1, "key": "k"})
        await erase(server, "u")
        answer = await server.emit({"userId": "u", "type": "A", "payload": 2, "key": "k"})
        assert answer["duplicate"] is False


@pytest.mark.gen_test
async def test_erasing_needs_an_emit_token_and_a_user(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        await batch(server, 1)
        for bearer in (None, READ_TOKEN, "wrong"):
            response = await server.delete("/internal/users/u/events", bearer=bearer)
            assert response.code == 401
        assert (await server.delete("/internal/users//events")).code == 400
        assert len((await page(server, "u"))["events"]) == 1


@over_both
@pytest.mark.gen_test
async def test_users_whose_ids_look_alike_are_erased_apart(tmp_path: Path) -> None:
    users = ["*", "a/b", "a%2Fb", E_ACUTE, E_AND_ACUTE, "u' OR '1'='1", "%", "_"]
    async with harness(tmp_path) as server:
        for user in users:
            await batch(server, 1, user)
        for number, user in enumerate(users, 1):
            assert await erase(server, user) == {"erased": 1}
            left = [len((await page(server, each))["events"]) for each in users]
            assert left == [0] * number + [1] * (len(users) - number)


@over_both
@pytest.mark.gen_test
async def test_an_erasure_that_comes_during_a_drain_is_told_to_be_asked_again(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, {"ARCHIBALD_RT_SERVER_DRAIN": "5s"}) as process:
        server = Harness(process, settings_for(tmp_path))
        await batch(server, 1)
        at = urlsplit(process.internal_url)
        reader, writer = await asyncio.open_connection(at.hostname, at.port)
        head = "DELETE /internal/users/u/events HTTP/1.1\r\nHost: x\r\n"
        writer.write(head.encode())
        # A device keeps the drain from ending before the request does.
        async with await server.connect("u") as device:
            await device.until("rt.live")
            process.signal(signal.SIGTERM)
            await device.until("rt.reconnect")
            writer.write(f"Authorization: Bearer {EMIT_TOKEN}\r\n\r\n".encode())
            assert (await reader.readline()).startswith(b"HTTP/1.1 503")
        writer.close()
        assert process.wait() == 0
