"""Several servers on one log in JetStream, as devices and back ends see them."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import nats as client
import pytest

from archibald_rt.eventlog.nats import arrivals, follower, marks
from archibald_rt.eventlog.nats.engine import NatsLog
from archibald_rt.eventlog.nats.jet import Got, Jet, Message
from archibald_rt.eventlog.nats.names import Names
from archibald_rt.server import Server
from natslogs import held_back, jet_of
from natsservers import NatsServer, cable, nats_server
from support import Device, Harness, eventually, harness, problem_of, silenced, token
from watching import watching


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@asynccontextmanager
async def serving(folder: Path, overrides: Mapping[str, str]) -> AsyncIterator[Harness]:
    """Run a server, and close at the end what was connected to it."""
    async with AsyncExitStack() as devices, harness(folder, overrides) as server:
        plainly = server.open

        async def opened(*args: Any, **options: Any) -> Device:
            return await devices.enter_async_context(await plainly(*args, **options))

        server.open = opened  # type: ignore[method-assign]  # where all are made
        yield server
        await devices.aclose()


@asynccontextmanager
async def two(
    folder: Path, nats: NatsServer, **settings: str
) -> AsyncIterator[tuple[Harness, Harness]]:
    """Run two servers on a log of their own."""
    overrides = {key.replace("__", "."): text for key, text in settings.items()}
    overrides |= {
        "log.engine": "nats",
        "nats.servers": nats.url,
        "nats.stream": folder.name,
    }
    async with serving(folder, overrides) as first, serving(folder, overrides) as second:
        yield first, second


async def until_payload(device: Device, payload: object) -> list[dict[str, Any]]:
    """Return what comes up to an event with a payload."""
    seen: list[dict[str, Any]] = []
    while not seen or seen[-1].get("payload") != payload:
        seen.append(await device.next())
    return seen


def job(payload: object, **more: object) -> dict[str, object]:
    return {"userId": "u", "type": "JOB", "payload": payload, **more}


@pytest.mark.gen_test
async def test_devices_on_two_servers_get_what_both_emit_in_one_order(
    tmp_path: Path, shared: NatsServer
) -> None:
    async with two(tmp_path, shared) as servers:
        devices = [await each.connect("u") for each in servers]
        for device in devices:
            await device.take(2)

        async def emit(at: Harness, name: str) -> list[str]:
            answers = []
            for number in range(30):
                if number % 10 == 5:
                    batch = [job(f"{name}{number}"), job(f"{name}{number}+")]
                    answers += (await at.emit(batch))["results"]
                else:
                    answers.append(await at.emit(job(f"{name}{number}")))
            assert all(answer["delivered"] == 1 for answer in answers)
            return [answer["id"] for answer in answers]

        ids = await asyncio.gather(
            *(emit(at, name) for at, name in zip(servers, "ab", strict=True))
        )
        wanted = sorted((id_ for each in ids for id_ in each), key=_seq)
        for device in devices:
            messages = await device.take(len(wanted))
            assert [message["id"] for message in messages] == wanted
            assert [message["prev"] for message in messages[1:]] == wanted[:-1]
        # What the other server replays is the same.
        for server in servers:
            device = await server.connect("u", lastEventId=wanted[9])
            await device.next()
            assert [each["id"] for each in await device.take(len(wanted) - 10)] == wanted[10:]
            assert (await device.next())["type"] == "rt.live"


def _seq(cursor: str) -> int:
    return int(cursor.partition(":")[2])


@pytest.mark.gen_test
async def test_transient_events_come_to_the_devices_of_other_servers_in_their_place(
    tmp_path: Path, shared: NatsServer
) -> None:
    async with two(tmp_path, shared) as (first, second):
        device, stranger = await second.connect("u"), await second.connect("v")
        here = await first.connect("u")
        for each in (device, stranger, here):
            await each.take(2)
        for number in range(20):
            await first.emit(job(f"durable {number}"))
            await first.emit(job(f"transient {number}", durable=False))
        await first.emit({"type": "ALL", "payload": "end"}, "broadcast")
        seen = [each["payload"] for each in await until_payload(device, "end")]
        # A transient one may be lost where a later durable one was there first, and is never
        # before the durable one it follows, or doubled.
        wanted = [f"{kind} {number}" for number in range(20) for kind in ("durable", "transient")]
        assert [each for each in wanted if each in seen] == seen[:-1]
        assert {each for each in wanted if each.startswith("durable")} <= set(seen)
        # Where they were emitted all come, and once.
        assert [each["payload"] for each in await until_payload(here, "end")] == [*wanted, "end"]
        assert await stranger.next() == {**device.seen[-1]}


@pytest.mark.gen_test
async def test_what_another_server_took_is_replayed_to_v1_and_seen_by_who_watches(
    tmp_path: Path, shared: NatsServer
) -> None:
    async with two(tmp_path, shared) as (first, second), watching(second) as watch:
        early, late = "2026-01-01T00:00:00Z", "2026-01-01T00:00:05Z"
        await first.emit(job(1, timestamp=early))
        await first.emit(job(2, timestamp=late))
        await first.emit(job(3, durable=False, timestamp=late))
        shown: list[tuple[str, int]] = []
        while len(shown) < 3:
            message = await watch.next()
            if not message["type"].startswith("rt."):
                shown.append((message["userId"], message["payload"]))
        assert shown == [("u", 1), ("u", 2), ("u", 3)]
        device = await second.connect("u", v2=False, lastEventTs="2026-01-01T00:00:01Z")
        assert await device.next() == {"type": "JOB", "payload": 2, "timestamp": late}
        await first.emit(job(4, timestamp=early))
        assert (await device.next())["payload"] == 4


@pytest.mark.gen_test
async def test_a_key_used_at_two_servers_at_once_is_stored_once(
    tmp_path: Path, shared: NatsServer
) -> None:
    async with two(tmp_path, shared) as servers:
        for number in range(5):
            answers = await asyncio.gather(
                *(each.emit(job(number, key=f"k{number}")) for each in servers)
            )
            assert sorted(each["duplicate"] for each in answers) == [False, True]
            assert answers[0]["id"] == answers[1]["id"]
        other = await servers[1].post(
            "/internal/emit", json.dumps(job("another", key="k0")).encode()
        )
        assert other.code == 409


@pytest.mark.gen_test
async def test_history_beyond_the_limit_is_told_by_every_server(
    tmp_path: Path, shared: NatsServer
) -> None:
    async with two(tmp_path, shared, log__max_events_per_user="5") as (first, second):
        ids = [(await first.emit(job(number)))["id"] for number in range(5)]
        # As many as are kept: nothing is missing.
        device = await second.connect("u", lastEventId=ids[0])
        assert [each["type"] for each in await device.take(6)] == [
            "rt.welcome",
            *["JOB"] * 4,
            "rt.live",
        ]
        ids += [(await first.emit(job(number)))["id"] for number in range(5, 8)]
        # Three are gone; who had those misses nothing.
        device = await second.connect("u", lastEventId=ids[2])
        assert [each.get("id") for each in await device.take(7)] == [None, *ids[3:], None]
        # What was dispatched a moment ago is at hand; whoever comes from before it is told.
        async with serving(tmp_path, _again(second)) as third:
            device = await third.connect("u", lastEventId=ids[0])
            _, gap, *events, _ = await device.take(8)
            assert gap["type"] == "rt.gap"
            assert gap["payload"] == {
                "requested": ids[0],
                "missingThrough": ids[2],
                "reason": "expired",
            }
            assert [each["id"] for each in events] == ids[3:]


def _again(like: Harness) -> dict[str, str]:
    nats = like.settings.nats
    overrides = {"log.engine": "nats", "nats.servers": nats.servers[0], "nats.stream": nats.stream}
    return overrides | {"log.max_events_per_user": str(like.settings.log.max_events_per_user)}


@pytest.mark.gen_test
async def test_what_is_erased_at_one_server_comes_from_none(
    tmp_path: Path, shared: NatsServer
) -> None:
    async with two(tmp_path, shared) as (first, second):
        ids = [(await second.emit(job(number)))["id"] for number in range(3)]
        await first.emit({"type": "ALL", "payload": 9, "durable": True}, "broadcast")
        answer = await first.delete("/internal/users/u/events")
        assert json.loads(answer.body) == {"erased": 3}
        for server in (first, second):

            async def told(server: Harness = server) -> bool:
                device = await server.connect("u", lastEventId=ids[0])
                _, second_message = await device.take(2)
                return bool(second_message["type"] == "rt.gap")

            # It is known at the others a moment later.
            await eventually(told)
            device = await server.connect("u", lastEventId=ids[0])
            _, gap, event, live = await device.take(4)
            assert gap["payload"]["missingThrough"] == ids[2]
            assert (event["payload"], live["type"]) == (9, "rt.live")


@pytest.mark.gen_test
async def test_who_is_revoked_at_one_server_is_cut_off_and_refused_at_all(
    tmp_path: Path, shared: NatsServer
) -> None:
    async with two(tmp_path, shared) as (first, second):
        here, there = await first.connect("u"), await second.connect("u")
        other = await second.connect("v")
        path = "/internal/users/u/disconnect"
        answer = await first.post(path, b'{"revokeBefore":"2100-01-01T00:00:00Z"}')
        assert json.loads(answer.body) == {"disconnected": 2}
        assert await here.closed() == (4002, "Disconnected")
        assert await there.closed() == (4002, "Disconnected")
        for server in (first, second):
            assert await (await server.connect("u")).closed() == (1008, "Authentication failed")
        revoked = await first.open({"token": token("w", jti="t1")})
        body = b'{"jti":"t1","expires":"2100-01-01T00:00:00Z"}'
        assert (await second.post("/internal/tokens/revoke", body)).code == 200
        assert await revoked.closed() == (4002, "Disconnected")
        # A kick alone goes to the others as well.
        assert (await first.post("/internal/users/v/disconnect", b"{}")).code == 200
        assert await other.closed() == (4002, "Disconnected")
        # Whoever starts later knows of it.
        async with serving(tmp_path, _again(first)) as third:
            assert await (await third.connect("u")).closed() == (1008, "Authentication failed")


@pytest.mark.gen_test
async def test_a_batch_larger_than_the_engine_takes_is_refused_whole(
    tmp_path: Path, shared: NatsServer
) -> None:
    async with two(tmp_path, shared) as (first, _):
        batch = [job(number) for number in range(1001)]
        answer = await first.post("/internal/emit", json.dumps(batch).encode())
        assert answer.code == 413
        assert "1000" in problem_of(answer)["detail"]
        answers = (await first.emit(batch[1:]))["results"]
        assert len({each["id"] for each in answers}) == 1000


@pytest.mark.gen_test
async def test_an_outage_of_nats_refuses_emissions_and_keeps_the_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However long it takes.
    monkeypatch.setattr(marks, "LEASE", 3600.0)
    with nats_server(tmp_path / "nats") as nats, silenced("archibald_rt.commits"):
        async with two(tmp_path, nats) as servers:
            devices = [await each.connect("u") for each in servers]
            for device in devices:
                await device.take(2)
            ids = [(await servers[0].emit(job("before")))["id"]]
            nats.kill()
            for server in servers:

                async def unready(server: Harness = server) -> bool:
                    return (await server.get("/readyz", public=True)).code == 503

                await eventually(unready)
                why = problem_of(await server.get("/readyz", public=True))["detail"]
                assert "not connected to NATS" in why
                assert (await server.get("/healthz", public=True)).code == 200
                refused = await server.post("/internal/emit", json.dumps(job("lost")).encode())
                assert refused.code == 503
                assert "Retry-After" in refused.headers
                # What needs no log goes on.
                answer = await server.emit(job("transient", durable=False))
                assert answer["delivered"] == 1
                assert (await server.stats())["log"]["fault"]
                late = await server.connect("u", lastEventId="earliest")
                assert await late.closed() == (1013, "Log unavailable")
            nats.start()
            for server in servers:

                async def ready(server: Harness = server) -> bool:
                    return (await server.get("/readyz", public=True)).code == 200

                await eventually(ready)
            ids += [(await server.emit(job("after")))["id"] for server in servers]
            for device in devices:
                seen = await until_payload(device, "after")
                seen += await until_payload(device, "after")
                assert [each["id"] for each in seen if "id" in each] == ids
                assert all(each["payload"] != "lost" for each in seen)


@pytest.mark.parametrize("own", [True, False], ids=["its own key", "the key that it is told"])
@pytest.mark.gen_test
async def test_an_emission_whose_outcome_is_unknown_is_said_so_and_can_be_retried_by_a_key(
    tmp_path: Path, *, own: bool
) -> None:
    with nats_server(tmp_path / "nats") as nats, silenced("archibald_rt.commits"):
        async with two(tmp_path, nats) as (first, second):
            devices = [await each.connect("u") for each in (first, second)]
            for device in devices:
                await device.take(2)
            plain = job("once", key="k") if own else job("once")
            with nats.halted():
                unknown = await first.post("/internal/emit", json.dumps(plain).encode())
            assert unknown.code == 504
            problem = problem_of(unknown)
            assert problem["type"] == "outcome-unknown"
            assert not own or problem["key"] == "k"
            keyed = json.dumps({**plain, "key": problem["key"]}).encode()

            async def stored() -> bool:
                # By another way than the first try went.
                return (await second.post("/internal/emit", keyed)).code == 200

            await eventually(stored)
            await second.emit(job("end"))
            for device in devices:
                seen = await until_payload(device, "end")
                assert [each["payload"] for each in seen] == ["once", "end"]
            # It was no reason to end.
            assert _faults((first, second)) == [None, None]


@pytest.mark.gen_test
async def test_each_emission_of_a_batch_of_unknown_outcome_is_told_a_key(tmp_path: Path) -> None:
    with nats_server(tmp_path / "nats") as nats, silenced("archibald_rt.commits"):
        async with two(tmp_path, nats) as (first, second):
            device = await second.connect("u")
            await device.take(2)
            batch = [job(0), job(1, durable=False), job(2, key="k"), job(3)]
            with nats.halted():
                unknown = await first.post("/internal/emit", json.dumps(batch).encode())
            problem = problem_of(unknown)
            assert (unknown.code, problem["keys"][1:3]) == (504, [None, "k"])
            keyed = [{**batch[place], "key": problem["keys"][place]} for place in (0, 2, 3)]
            body = json.dumps(keyed).encode()

            async def stored() -> bool:
                return (await second.post("/internal/emit", body)).code == 200

            await eventually(stored)
            await second.emit(job("end"))
            seen = [each["payload"] for each in await until_payload(device, "end")]
            assert [each for each in seen if each != 1] == [0, 2, 3, "end"]


@pytest.mark.gen_test
async def test_a_device_comes_back_to_a_server_that_is_behind_the_one_it_was_at(
    tmp_path: Path, shared: NatsServer
) -> None:
    async with two(tmp_path, shared) as (first, second):
        assert isinstance(second.server, Server)
        go_on = asyncio.Event()

        async def hold() -> int:
            await go_on.wait()
            return 0

        holding = asyncio.ensure_future(second.server._order.between(hold))  # noqa: SLF001 - nothing else holds it up
        await asyncio.sleep(0)
        last = (await first.emit(job("unseen there")))["id"]
        device = await second.connect("u", lastEventId=last)
        assert (await second.stats())["log"]["dispatched"] < _seq(last)
        go_on.set()
        await holding
        welcome, live = await device.take(2)
        assert (welcome["payload"]["cursor"], live["type"]) == (last, "rt.live")
        # One of what nobody has is from the future as ever.
        epoch, _, seq = last.partition(":")
        device = await second.connect("u", lastEventId=f"{epoch}:{int(seq) + 10}")
        _, gap = await device.take(2)
        assert gap["payload"]["reason"] == "ahead"


@pytest.mark.gen_test
async def test_a_device_is_not_told_at_another_server_what_goes_before_its_cursor(
    tmp_path: Path, shared: NatsServer
) -> None:
    async with two(tmp_path, shared) as (first, second):
        assert isinstance(second.server, Server)
        stays = await second.connect("u")
        await stays.take(2)
        order = second.server._order  # noqa: SLF001 - nothing else holds it up
        go_on = asyncio.Event()

        async def hold() -> int:
            await go_on.wait()
            return 0

        holding = asyncio.ensure_future(order.between(hold))
        await first.emit(job("before"))
        await first.emit(job("transient", durable=False))
        arrived = order._log.peers  # noqa: SLF001 - what waits is to be seen nowhere else
        assert isinstance(arrived, arrivals.Arrivals)
        await eventually(lambda: len(arrived._waiting) == 2)  # noqa: SLF001 - as above
        last = (await first.emit(job("last")))["id"]
        device = await second.connect("u", lastEventId=last)
        go_on.set()
        await holding
        await first.emit(job("end"))
        # It came in its place, for whom it was there.
        seen = [each["payload"] for each in await until_payload(stays, "end")]
        assert seen == ["before", "transient", "last", "end"]
        events = [each for each in await until_payload(device, "end") if each["type"] == "JOB"]
        assert [each["payload"] for each in events] == ["end"]


@pytest.mark.gen_test
async def test_what_follows_a_key_that_was_sent_again_elsewhere_comes_behind_its_event(
    tmp_path: Path, shared: NatsServer
) -> None:
    async with two(tmp_path, shared) as (first, second):
        device = await second.connect("u")
        await device.take(2)
        assert isinstance(second.server, Server)
        log = second.server._order._log  # noqa: SLF001 - nothing else says that it is behind
        assert isinstance(log, NatsLog)
        async with slowed(log):
            stored = await first.emit(job("durable", key="k"))
            again = await second.emit(job("durable", key="k"))
            assert (again["id"], again["duplicate"]) == (stored["id"], True)
            await second.emit(job("transient", durable=False))
        await second.emit(job("end"))
        seen = [each["payload"] for each in await until_payload(device, "end")]
        assert seen == ["durable", "transient", "end"]


@asynccontextmanager
async def slowed(log: NatsLog) -> AsyncIterator[None]:
    """Let nothing arrive from the stream for the length of a block."""
    spine = log._spine  # noqa: SLF001 - as if it were slow
    plainly, go_on = spine._take, asyncio.Event()  # noqa: SLF001 - as above

    async def take(got: Got) -> None:
        await go_on.wait()
        await plainly(got)

    spine._take = take  # noqa: SLF001 - as above
    try:
        yield
    finally:
        go_on.set()


async def _a_probe(jet: Jet, names: Names) -> None:
    await jet.store([Message(names.probe, b"")])


async def _a_deleted_event(jet: Jet, names: Names) -> None:
    async with held_back(jet, names.stream):
        seq = await jet.store([Message(names.durable("u"), b"x")])
        await jet.ask(f"STREAM.MSG.DELETE.{names.stream}", {"seq": seq})


async def _a_key_alone(jet: Jet, names: Names) -> None:
    seq = await jet.store([Message(names.key("u", "a"), b"")])
    await jet.ask(f"STREAM.MSG.DELETE.{names.stream}", {"seq": seq})


async def _no_event_of_ours(jet: Jet, names: Names) -> None:
    await jet.store([Message(f"{names.stream}.d.1.u.u%", b"?")])


@pytest.mark.parametrize("last", [_a_probe, _a_deleted_event, _a_key_alone, _no_event_of_ours])
@pytest.mark.gen_test
async def test_a_server_that_began_behind_what_nobody_gets_is_no_further_than_the_others(
    tmp_path: Path, shared: NatsServer, last: Callable[[Jet, Names], Awaitable[None]]
) -> None:
    async with two(tmp_path, shared) as (first, _), jet_of(shared) as jet:
        device = await first.connect("u")
        await first.emit(job("before"))
        await until_payload(device, "before")
        await last(jet, Names(tmp_path.name))
        async with serving(tmp_path, _again(first)) as begun:
            welcome, _ = await (await begun.connect("u")).take(2)
            cursor = welcome["payload"]["cursor"]
            assert _seq(cursor) == _seq(device.seen[-1]["id"]) + 1
            moved = await first.connect("u", lastEventId=cursor)
            welcome, live = await moved.take(2)
            assert (welcome["payload"]["cursor"], live["type"]) == (cursor, "rt.live")
            # What goes behind it waits for nothing either.
            await begun.emit(job("transient", durable=False))
            for each in (device, moved):
                await until_payload(each, "transient")


@pytest.mark.parametrize("how", ["by number", "by age"])
@pytest.mark.gen_test
async def test_what_was_deleted_while_a_server_was_alone_is_told_to_its_devices(
    tmp_path: Path, shared: NatsServer, how: str
) -> None:
    overrides = {"log.engine": "nats", "nats.stream": tmp_path.name}
    overrides["log.max_events_per_user"] = "3" if how == "by number" else "1000"
    async with (
        cable(shared) as way,
        serving(tmp_path, overrides | {"nats.servers": shared.url}) as first,
        serving(tmp_path, overrides | {"nats.servers": way.url}) as alone,
    ):
        with silenced("archibald_rt.commits"), silenced("archibald_rt.eventlog.nats"):
            device, other = await alone.connect("u"), await alone.connect("v")
            before = (await first.emit(job("before")))["id"]
            seen = await until_payload(device, "before")
            await other.take(2)
            way.cut()

            async def unready() -> bool:
                return (await alone.get("/readyz", public=True)).code == 503

            await eventually(unready)
            ids = [(await first.emit(job(number)))["id"] for number in range(8)]
            if how == "by age":
                connection = await client.connect(shared.url)
                upto = json.dumps({"seq": _seq(ids[5])}).encode()
                await connection.request(f"$JS.API.STREAM.PURGE.{tmp_path.name}", upto)
                await connection.close()
            way.mend()
            seen = await until_payload(device, 7)
            assert [each.get("id") for each in seen] == [None, *ids[5:]]
            assert (seen[0]["type"], seen[0]["payload"]["requested"]) == ("rt.gap", before)
            assert seen[0]["payload"]["missingThrough"] == ids[4]
            assert [each["prev"] for each in seen[2:]] == ids[5:-1]
            # It goes on, for all, and it was no reason to end.
            last = (
                await first.emit({"type": "ALL", "payload": "on", "durable": True}, "broadcast")
            )["id"]
            for each in (device, other):
                assert (await until_payload(each, "on"))[-1]["id"] == last
            assert _faults([first, alone]) == [None, None]


@pytest.mark.parametrize("how", ["by number", "by size", "by erasure"])
@pytest.mark.gen_test
async def test_what_was_deleted_before_a_server_had_it_is_told_to_its_devices(
    tmp_path: Path, shared: NatsServer, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    # It is not to be asked for anew because this machine stood still.
    monkeypatch.setattr(follower, "MISSED", 10**6)
    limits = {"by number": {"log__max_events_per_user": "3"}, "by size": {"log__max_size": "64KiB"}}
    async with (
        two(tmp_path, shared, **limits.get(how, {})) as servers,
        jet_of(shared) as jet,
    ):
        first, second = servers
        devices = [await each.connect("u") for each in servers]
        others = [await each.connect("v") for each in servers]
        before = (await first.emit(job("before")))["id"]
        for device in devices:
            await until_payload(device, "before")
        size = 10_000 if how == "by size" else 10
        batch = [job([number, "x" * size]) for number in range(8)]
        async with held_back(jet, tmp_path.name):
            emitting = asyncio.ensure_future(first.emit(batch))
            subject = Names(tmp_path.name).durable("u")

            async def stored() -> bool:
                found = await jet.last(tmp_path.name, subject)
                return found is not None and found.seq == _seq(before) + len(batch)

            await eventually(stored)
            if how == "by erasure":
                assert (await second.delete("/internal/users/u/events")).code == 200
        answers = (await emitting)["results"]
        assert {answer["delivered"] for answer in answers} == {0}
        end = {"type": "ALL", "payload": "end", "durable": True}
        last = (await first.emit(end, "broadcast"))["id"]
        for device in devices:
            seen = await until_payload(device, "end")
            assert (seen[0]["type"], seen[0]["payload"]["requested"]) == ("rt.gap", before)
            position = _seq(before)
            for message in seen:
                if message["type"] == "rt.gap":
                    position = _seq(message["payload"]["missingThrough"])
                else:
                    # All that there is, or told: the seqs follow one another.
                    assert _seq(message["id"]) == position + 1
                    position += 1
        for device in others:
            assert (await until_payload(device, "end"))[-1]["id"] == last
        assert _faults(servers) == [None, None]


@pytest.mark.gen_test
async def test_a_server_that_dispatches_too_late_is_not_ready_and_says_so(
    tmp_path: Path, shared: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "LATE", 0.1)
    async with two(tmp_path, shared) as (first, slow), AsyncExitStack() as exit_first:
        assert isinstance(slow.server, Server)
        go_on = asyncio.Event()
        exit_first.callback(go_on.set)

        async def hold() -> int:
            await go_on.wait()
            return 0

        holding = asyncio.ensure_future(slow.server._order.between(hold))  # noqa: SLF001 - nothing else holds it up
        await asyncio.sleep(0)
        for number in range(3):
            await first.emit(job(number))

        async def late() -> bool:
            answer = await slow.get("/readyz", public=True)
            return (
                answer.code == 503
                and "dispatched too late: 3 events" in problem_of(answer)["detail"]
            )

        await eventually(late)
        text = (await slow.get("/metrics")).body.decode()
        assert float(_sample(text, "archibald_rt_log_unread_events")) == 3
        assert float(_sample(text, "archibald_rt_log_unread_seconds")) >= 0.1
        assert float(_sample(text, "archibald_rt_log_followed")) == 0
        assert float(_sample(text, "archibald_rt_ready")) == 0
        assert float(_sample(text, "archibald_rt_commits_failing")) == 0
        go_on.set()
        await holding

        async def ready() -> bool:
            return (await slow.get("/readyz", public=True)).code == 200

        await eventually(ready)


def _sample(text: str, name: str) -> str:
    (line,) = [each for each in text.splitlines() if each.startswith(f"{name} ")]
    return line.partition(" ")[2]


@pytest.mark.gen_test
async def test_a_stream_that_was_made_anew_ends_the_servers(tmp_path: Path) -> None:
    with nats_server(tmp_path / "nats") as nats, silenced("archibald_rt.commits"):
        async with two(tmp_path, nats) as servers:
            for number in range(3):
                await servers[0].emit(job(number))
            nats.kill()
            nats.forget()
            nats.start()
            await eventually(lambda: all(_faults(servers)))


def _faults(servers: Sequence[Harness]) -> list[BaseException | None]:
    running = [each.server for each in servers]
    return [each.shutdown.fault for each in running if isinstance(each, Server)]
