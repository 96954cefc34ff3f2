"""``/internal/stream``: everything that happens, bounded, and no harm to anybody else."""

import asyncio
import contextlib
import json
from pathlib import Path
from urllib.parse import quote

import pytest

from archibald_rt.tap import QUEUE, WATCHERS
from described import ASYNCAPI, message
from engines import over_both
from support import (
    EMIT_TOKEN,
    READ_TOKEN,
    Harness,
    eventually,
    harness,
    problem_of,
    settings_for,
    token,
)
from watching import overtax, request, unread, watching


def watchers(at: Harness) -> int:
    """Return how many watch."""
    return len(at.server._tap.watchers)  # type: ignore[attr-defined]  # noqa: SLF001 - nothing outside tells


@over_both
@pytest.mark.gen_test
async def test_everything_dispatched_is_told_with_its_payload_untouched(tmp_path: Path) -> None:
    async with harness(tmp_path) as at, watching(at, bearer=READ_TOKEN) as watch:
        assert watch.seen[0]["payload"] == {"access": "read"}
        async with await at.connect("ada") as ada, await at.connect("ada"):
            await ada.until("rt.live")
            durable = await at.emit({"userId": "ada", "type": "A", "payload": 10**30})
            await at.emit({"userId": "bob", "type": "B", "durable": False})
            await at.emit({"type": "ALL", "timestamp": "2026-01-01T00:00:00Z"}, "broadcast")
            assert [(await watch.next())["type"] for _ in range(2)] == ["rt.connected"] * 2
            assert await watch.next() == {
                "userId": "ada",
                "id": durable["id"],
                "durable": True,
                "delivered": 2,
                "type": "A",
                "payload": 10**30,
                "timestamp": durable["timestamp"],
            }
            told = await watch.next()
            assert (told["userId"], told["id"], told["durable"], told["delivered"]) == (
                *("bob", None, False, 0),
            )
            assert await watch.next() == {
                "userId": None,
                "id": None,
                "durable": False,
                "delivered": 2,
                "type": "ALL",
                "payload": None,
                "timestamp": "2026-01-01T00:00:00Z",
            }


@pytest.mark.gen_test
async def test_what_becomes_of_devices_is_told_as_it_is_described(tmp_path: Path) -> None:
    listed = ASYNCAPI["operations"]["streamSend"]["messages"]
    names = [each["$ref"].rpartition("/")[2] for each in listed]
    kinds = {name: message(name) for name in names}
    async with contextlib.AsyncExitStack() as stack:
        async with harness(tmp_path, {"delivery.max_outbox": "128KiB"}) as at:
            # Nothing of this one is lost for the size of the events.
            watch = await stack.enter_async_context(watching(at, "?type=rt.*"))
            traffic = await stack.enter_async_context(watching(at, "?type=BIG"))
            reader = await stack.enter_async_context(unread(at, "slow"))
            connected = (await watch.until("rt.connected"))["payload"]
            device = {"userId": "slow", "connection": connected["connection"]}
            assert connected == {**device, "protocol": "v1", "address": "127.0.0.1"}
            following = asyncio.ensure_future(watch.until("rt.state"))
            await overtax(at, "slow")
            behind = (await following)["payload"]
            assert behind == {**device, "state": "behind", "position": behind["position"]}
            following = asyncio.ensure_future(watch.until("rt.state"))
            while not following.done():
                await asyncio.wait(
                    [following, asyncio.ensure_future(reader.read(1 << 20))],
                    return_when=asyncio.FIRST_COMPLETED,
                )
            assert (await following)["payload"]["state"] == "live"
            await at.post("/internal/users/slow/disconnect", b"{}")
            gone = (await watch.until("rt.disconnected"))["payload"]
            assert gone == {**device, "code": 4002, "reason": "Disconnected"}
        # The server has ended.
        last = (await watch.rest())[-1]
        await traffic.rest()
    assert last["payload"] == {"code": 1001, "reason": "Server going away"}
    found = set()
    for each in (*watch.seen, *traffic.seen):
        (kind,) = [name for name, schema in kinds.items() if schema.is_valid(each)]
        found.add(kind)
    assert found | {"dropped"} == set(names)


@pytest.mark.gen_test
async def test_a_device_that_leaves_is_told_with_its_own_code(tmp_path: Path) -> None:
    async with harness(tmp_path) as at, watching(at, "?type=rt.disconnected") as watch:
        device = await at.connect("ada")
        device.socket.close(3456, "bye")
        await device.closed()
        payload = (await watch.next())["payload"]
        assert (payload["code"], payload["reason"]) == (3456, "bye")
        (await at.connect("ada")).drop()
        payload = (await watch.next())["payload"]
        assert (payload["code"], payload["reason"]) == (1006, "")


@pytest.mark.gen_test
async def test_only_what_is_asked_for_comes(tmp_path: Path) -> None:
    async with (
        harness(tmp_path) as at,
        watching(at, f"?user={quote('a&d=é')}") as of_user,
        watching(at, "?type=JOB_%3F&type=N*") as of_type,
        watching(at, "?user=bob&type=rt.*") as of_both,
        watching(at, "?user=&type=") as of_all,
    ):
        async with await at.connect("bob") as bob:
            await bob.until("rt.live")
            for user, event_type in (
                *(("bob", "JOB_1"), ("a&d=é", "JOB_22"), ("A&D=É", "N"), ("bob", "job_1")),
            ):
                await at.emit({"userId": user, "type": event_type})
            await at.emit({"type": "NEWS"}, "broadcast")
            await at.emit({"userId": "a&d=é", "type": "N\u0041"})
        await of_both.until("rt.disconnected")
        assert [each["type"] for each in (await of_user.next(), await of_user.next())] == [
            *("JOB_22", "NA"),
        ]
        types = [(await of_type.next())["type"] for _ in range(4)]
        assert types == ["JOB_1", "N", "NEWS", "NA"]
        assert [each["type"] for each in of_both.seen[1:]] == ["rt.connected", "rt.disconnected"]
        await of_all.until("rt.disconnected")
        assert len(of_all.seen) == 1 + 8


@pytest.mark.gen_test
async def test_what_can_be_no_filter_is_refused_and_named(tmp_path: Path) -> None:
    async with harness(tmp_path) as at:
        for query, field in (
            ("user=" + "x" * 257, "user"),
            ("user=a%00", "user"),
            ("type=" + "x" * 129, "type"),
            ("&".join(["type=a"] * 21), "type"),
        ):
            refused = await at.get(f"/internal/stream?{query}")
            assert refused.code == 400
            assert problem_of(refused)["field"] == field
        assert (await at.get("/internal/stream", bearer=None)).code == 401
        assert (await at.get("/internal/stream", bearer=token("ada", role="admin"))).code == 401
        assert (await at.get("/internal/stream", public=True)).code == 404
        assert watchers(at) == 0


@pytest.mark.gen_test
async def test_so_many_watch_and_no_more_until_one_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # That one has gone is noticed at once, and not when a comment can't be written.
    monkeypatch.setattr("archibald_rt.handlers.stream.KEEP_ALIVE", 3600)
    async with harness(tmp_path) as at, contextlib.AsyncExitStack() as stack:
        for _ in range(WATCHERS - 1):
            await stack.enter_async_context(watching(at))
        async with watching(at):
            refused = await at.get("/internal/stream")
            assert refused.code == 503
            assert refused.headers["Retry-After"] == "1"
            assert "watch" in problem_of(refused)["detail"]
        await eventually(lambda: watchers(at) == WATCHERS - 1)
        async with watching(at):
            assert watchers(at) == WATCHERS


@pytest.mark.gen_test
async def test_one_who_does_not_read_loses_and_is_told_how_much_and_nobody_else_notices(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path) as at, contextlib.AsyncExitStack() as stack:
        reader, writer = await request(at, "/internal/stream?user=ada&type=T", EMIT_TOKEN)
        stack.callback(writer.close)
        await eventually(lambda: watchers(at) == 1)
        (watcher,) = at.server._tap.watchers  # type: ignore[attr-defined]  # noqa: SLF001 - as above
        event = {"userId": "ada", "type": "T", "payload": "x" * 60_000, "durable": False}
        emitted = 0
        async with await at.connect("ada") as ada, watching(at, "?type=T") as reads:
            await ada.until("rt.live")

            async def more() -> bool:
                nonlocal emitted
                # Less than what waits for the device and for the one who reads, at most.
                results = (await at.emit([event] * 10))["results"]
                emitted += len(results)
                assert {each["delivered"] for each in results} == {1}
                for _ in results:
                    assert (await ada.next())["type"] == "T"
                    assert (await reads.next())["type"] == "T"
                return bool(watcher.lost)

            await eventually(more)
            # What waits for it is what the bound says, and one event.
            assert watcher.size <= QUEUE + 61_000
        # Now it reads: what it gets and what it is told that it lost is all there was.
        got = lost = 0
        text = b""
        while got + lost < emitted:
            text += await asyncio.wait_for(reader.read(1 << 20), 20)
            *messages, text = text.split(b"\n\n")
            for each in messages:
                if b"event: rt.dropped" in each:
                    lost += json.loads(each.partition(b"data: ")[2])["payload"]["count"]
                elif b'"type":"T"' in each:
                    got += 1
        assert got + lost == emitted
        assert lost > 0
        await at.emit({**event, "payload": "after the loss"})
        while b"after the loss" not in text:
            text += await asyncio.wait_for(reader.read(1 << 20), 20)
        writer.close()
        await eventually(lambda: watchers(at) == 0)


@pytest.mark.gen_test
async def test_who_watches_by_a_token_that_was_taken_out_is_ended_at_the_reload(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path) as at, watching(at) as kept:
        async with watching(at, bearer=READ_TOKEN) as ended:
            new = settings_for(tmp_path, {"internal.read_tokens": "n" * 40})
            at.server.reload(new)  # type: ignore[attr-defined]  # as above
            (last,) = await ended.rest()
            assert last["type"] == "rt.close"
            assert last["payload"] == {"code": 1008, "reason": "Authentication failed"}
        await at.emit({"userId": "ada", "type": "A"})
        assert (await kept.next())["type"] == "A"
        assert watchers(at) == 1
