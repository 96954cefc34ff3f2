"""Several servers on one log as one: revocations, figures, who is connected, what is watched."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nats as client
import pytest
from nats.aio.msg import Msg

from described import component
from natsservers import NatsServer, cable, nats_server
from processes import ServerProcess
from processes import serving as process
from servers import current, held, knows, serving, settings_of, several, tap_of
from support import (
    PATIENCE,
    Harness,
    eventually,
    harness,
    problem_of,
    settings_for,
    silenced,
    token,
)
from watching import watching

if TYPE_CHECKING:
    from archibald_rt.reception import ClientMessage

# Of a try to connect anew that fails, the client leaves its socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <StreamWriter:ResourceWarning")

CUT_OFF, REFUSED = (4002, "Disconnected"), (1008, "Authentication failed")
ALL = b'{"revokeBefore":"2100-01-01T00:00:00Z"}'
KICK = "/internal/users/u/disconnect"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


async def post(at: Harness, path: str, body: bytes) -> int:
    """Have devices cut off; returns how many were."""
    response = await at.post(path, body)
    assert response.code == 200, response.body
    answer: dict[str, int] = json.loads(response.body)
    assert list(answer) == ["disconnected"]
    return answer["disconnected"]


def revoked(token_id: str) -> bytes:
    return json.dumps({"jti": token_id, "expires": "2100-01-01T00:00:00Z"}).encode()


@asynccontextmanager
async def apart(
    folder: Path, nats: NatsServer, name: str, *, beside: Harness
) -> AsyncIterator[tuple[ServerProcess, Harness]]:
    """Run a server as a process on the log of another, which is here and knows it then."""
    extra = {
        "ARCHIBALD_RT_LOG_ENGINE": "nats",
        "ARCHIBALD_RT_NATS_SERVERS": nats.url,
        "ARCHIBALD_RT_NATS_STREAM": folder.name,
        "ARCHIBALD_RT_NATS_NODE": name,
    }
    with process(folder, extra) as server:
        assert server.listening["node"] == name
        here = str(beside.settings.nats.node)
        # Its start has held up the loop of the one that is here.
        await eventually(lambda: knows(beside, here, name))
        await eventually(lambda: current(beside))
        yield server, Harness(server, settings_for(folder))


# Revocations


@pytest.mark.gen_test
async def test_a_revocation_has_shut_the_sessions_at_all_servers_when_it_is_answered(
    tmp_path: Path, shared: NatsServer
) -> None:
    async with several(tmp_path, shared.url, "a", "b", "c") as servers:
        for turn, asked in enumerate(servers):
            user, token_id = f"u{turn}", f"t{turn}"
            by_user = [await each.connect(user) for each in servers for _ in range(2)]
            by_token = [await each.open({"token": token("v", jti=token_id)}) for each in servers]
            others = [await each.connect("v") for each in servers]
            assert await post(asked, f"/internal/users/{user}/disconnect", ALL) == 6
            assert [held(each, user) for each in servers] == [0, 0, 0]
            assert await post(asked, "/internal/tokens/revoke", revoked(token_id)) == 3
            assert [held(each, "v") for each in servers] == [turn + 1] * 3
            for device in (*by_user, *by_token):
                assert await device.closed() == CUT_OFF
            for each, device in zip(servers, others, strict=True):
                again = await each.connect(user)
                assert await again.closed() == REFUSED
                again = await each.open({"token": token("v", jti=token_id)})
                assert await again.closed() == REFUSED
                await each.emit({"userId": "v", "type": "STILL", "durable": False})
                await device.until("STILL")


@pytest.mark.gen_test
async def test_a_kick_ends_the_devices_at_all_servers_and_revokes_nothing(
    tmp_path: Path, shared: NatsServer
) -> None:
    async with several(tmp_path, shared.url, "a", "b", "c") as servers:
        devices = [await each.connect("u") for each in servers]
        assert await post(servers[1], KICK, b"{}") == 3
        assert [held(each, "u") for each in servers] == [0, 0, 0]
        for device in devices:
            assert await device.closed() == CUT_OFF
        # One that is past cuts off who holds the token, and nothing is kept of it.
        devices = [await each.open({"token": token("u", jti="old")}) for each in servers]
        past = json.dumps({"jti": "old", "expires": "2001-01-01T00:00:00Z"}).encode()
        assert await post(servers[2], "/internal/tokens/revoke", past) == 3
        for device in devices:
            assert await device.closed() == CUT_OFF
        assert await post(servers[0], KICK, b"{}") == 0


@pytest.mark.gen_test
async def test_nobody_slips_through_who_connects_while_servers_start_and_tokens_are_revoked(
    tmp_path: Path, shared: NatsServer
) -> None:
    async with several(tmp_path, shared.url, "a", "b") as servers, AsyncExitStack() as stack:

        async def start(number: int) -> Harness:
            overrides = settings_of(shared.url, tmp_path.name, nats__node=f"n{number}")
            return await stack.enter_async_context(serving(tmp_path, overrides))

        async def connect(number: int) -> None:
            for each in (*servers, *servers):
                await each.connect(f"u{number}")

        for number in range(4):
            answers = await asyncio.gather(
                start(number),
                connect(number),
                post(servers[number % 2], f"/internal/users/u{number}/disconnect", ALL),
            )
            servers.append(answers[0])
            assert [held(each, f"u{number}") for each in servers] == [0] * len(servers)


@pytest.mark.long
@pytest.mark.gen_test
async def test_a_server_that_is_halted_while_tokens_are_revoked_serves_none_of_them_later(
    tmp_path: Path, shared: NatsServer
) -> None:
    async with several(tmp_path, shared.url, "here") as (here,):
        with silenced("archibald_rt.revoking"):
            async with apart(tmp_path, shared, "there", beside=here) as (server, there):
                near = await here.connect("u")
                async with await there.connect("u") as far, await there.connect("v") as other:
                    for device in (near, far, other):
                        await device.take(2)
                    server.signal(signal.SIGSTOP)
                    # It can't be said of a kick alone: nothing of it is kept.
                    answer = await here.post("/internal/users/w/disconnect", b"{}")
                    assert answer.code == 504
                    assert problem_of(answer)["type"] == "outcome-unknown"
                    assert "there" in problem_of(answer)["detail"]
                    assert await post(here, KICK, ALL) == 1
                    await here.emit({"userId": "u", "type": "SECRET"})
                    await here.emit({"userId": "u", "type": "SECRET", "durable": False})
                    last = (await here.emit({"userId": "v", "type": "LATER"}))["id"]
                    server.signal(signal.SIGCONT)
                    # Nothing came before the end.
                    assert await far.closed() == CUT_OFF
                    assert [each["type"] for each in far.seen] == ["rt.welcome", "rt.live"]
                    assert (await other.next())["id"] == last
                    again = await there.connect("u")
                    assert await again.closed() == REFUSED
                    await again.close()


@pytest.mark.long
@pytest.mark.gen_test
async def test_a_server_that_is_cut_off_serves_nobody_before_it_knows_what_was_revoked(
    tmp_path: Path, shared: NatsServer
) -> None:
    said: list[ClientMessage] = []
    async with (
        cable(shared) as way,
        serving(tmp_path, settings_of(shared.url, tmp_path.name, nats__node="first")) as first,
        serving(
            tmp_path,
            settings_of(way.url, tmp_path.name, nats__node="alone"),
            on_message=said.append,
        ) as alone,
    ):
        with (
            silenced("archibald_rt.commits"),
            silenced("archibald_rt.eventlog.nats"),
            silenced("archibald_rt.revoking"),
        ):
            device, other = await alone.connect("u"), await alone.connect("v")
            for each in (device, other):
                await each.take(2)
            way.cut()
            assert await post(first, KICK, ALL) == 0
            # Since that is answered it serves nobody; they stay connected.
            assert not current(alone)
            assert (held(alone, "u"), held(alone, "v")) == (1, 1)
            for user in ("u", "v"):
                answer = await alone.emit({"userId": user, "type": "NOW", "durable": False})
                assert answer["delivered"] == 0
                late = await alone.connect(user)
                assert await late.closed() == (1013, "Log unavailable")
            await device.send('{"type":"NOW"}')

            async def ignored() -> bool:
                return bool((await alone.stats())["clientMessages"]["ignored"])

            await eventually(ignored)
            assert said == []
            # Whoever asks it is told that others are missing.
            stats = await alone.stats()
            assert ([each["node"] for each in stats["nodes"]], stats["missing"]) == (
                ["alone"],
                ["first"],
            )
            assert stats["log"]["fault"]
            refused = await alone.post("/internal/users/w/disconnect", b"{}")
            assert (refused.code, problem_of(refused)["type"]) == (504, "outcome-unknown")
            assert (held(alone, "u"), held(alone, "v")) == (1, 1)
            way.mend()
            assert await device.closed() == CUT_OFF
            last = (await first.emit({"userId": "v", "type": "ON"}))["id"]
            assert (await other.next())["id"] == last

            async def back() -> bool:
                return not (await first.stats())["missing"]

            await eventually(back)
            await other.send('{"type":"THEN"}')
            await eventually(lambda: [each.message for each in said] == ['{"type":"THEN"}'])


# Figures


@pytest.mark.gen_test
async def test_figures_are_of_all_servers_and_say_which_ones(
    tmp_path: Path, shared: NatsServer
) -> None:
    async with several(tmp_path, shared.url, "b", "a", "c") as servers:
        for number, each in enumerate(servers):
            for _ in range(number + 1):
                await (await each.connect(f"u{number}")).take(2)
            await each.emit([{"userId": "u0", "type": "E", "payload": n} for n in range(10)])
            await each.emit({"userId": "u0", "type": "E", "durable": False})
        for each in servers:
            stats = await each.stats()
            component("Stats").validate(stats)
            assert (stats["connections"]["total"], stats["connections"]["users"]) == (6, 3)
            assert (stats["events"]["durable"], stats["events"]["transient"]) == (30, 3)
            assert [node["node"] for node in stats["nodes"]] == ["a", "b", "c"]
            assert [node["connections"] for node in stats["nodes"]] == [2, 1, 3]
            assert stats["missing"] == []
            assert stats["log"]["head"] >= 30


@pytest.mark.gen_test
async def test_who_is_connected_is_listed_of_all_servers_with_where(
    tmp_path: Path, shared: NatsServer
) -> None:
    async with several(tmp_path, shared.url, "a", "b", "c") as servers:
        for each in (servers[1], servers[0], servers[2], servers[0]):
            name = each.settings.nats.node
            await (await each.connect(f"user {name}")).take(2)
        for asked in servers:

            async def listed(query: str, at: Harness = asked) -> tuple[list[str], int]:
                answer: dict[str, Any] = json.loads(
                    (await at.get(f"/internal/connections{query}")).body
                )
                component("Connections").validate(answer)
                assert answer["missing"] == []
                rows = answer["connections"]
                assert all(row["userId"] == f"user {row['node']}" for row in rows)
                return [row["node"] for row in rows], answer["total"]

            assert await listed("?sort=oldest") == (["b", "a", "c", "a"], 4)
            assert await listed("?sort=newest&limit=3") == (["a", "c", "a"], 4)
            assert await listed("?user=user%20a&sort=newest") == (["a", "a"], 2)
            assert await listed("?search=ER%20B") == (["b"], 1)
            rows, total = await listed("")
            assert (sorted(rows), total) == (["a", "a", "b", "c"], 4)


@pytest.mark.gen_test
async def test_an_answer_larger_than_nats_takes_at_once_comes_whole(
    tmp_path: Path, shared: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with several(tmp_path, shared.url, "a", "b") as (first, second):
        for number in range(20):
            await (await second.connect(f"u{number}")).take(2)
        assert second.server._reception._log is not None  # type: ignore[attr-defined]  # noqa: SLF001 - its connection is nowhere else
        connection = second.server._reception._log._jet.connection  # type: ignore[attr-defined]  # noqa: SLF001 - as above
        monkeypatch.setattr(type(connection), "max_payload", 1000)
        answer = json.loads((await first.get("/internal/connections")).body)
        assert {row["userId"] for row in answer["connections"]} == {f"u{n}" for n in range(20)}


@pytest.mark.long
@pytest.mark.gen_test
async def test_a_server_that_does_not_answer_is_named_and_one_that_ended_is_not(
    tmp_path: Path, shared: NatsServer
) -> None:
    async with several(tmp_path, shared.url, "here") as (here,):

        async def seen() -> tuple[list[str], list[str]]:
            stats = await here.stats()
            rows = json.loads((await here.get("/internal/connections")).body)
            assert rows["missing"] == stats["missing"]
            return [each["node"] for each in stats["nodes"]], stats["missing"]

        async with apart(tmp_path, shared, "there", beside=here) as (server, _):
            assert await seen() == (["here", "there"], [])
            server.signal(signal.SIGSTOP)
            assert await seen() == (["here"], ["there"])
            server.signal(signal.SIGCONT)

            async def back() -> bool:
                return await seen() == (["here", "there"], [])

            await eventually(back)
            server.signal(signal.SIGTERM)
            server.rest()
            assert server.wait() == 0

            async def alone() -> bool:
                return await seen() == (["here"], [])

            await eventually(alone)
        async with apart(tmp_path, shared, "killed", beside=here) as (server, _):
            assert await seen() == (["here", "killed"], [])
            server.signal(signal.SIGKILL)
            server.wait()
            assert await seen() == (["here"], ["killed"])


@pytest.mark.gen_test
async def test_a_server_of_another_version_is_neither_answered_nor_relied_on(
    tmp_path: Path, shared: NatsServer
) -> None:
    async with several(tmp_path, shared.url, "a") as (server,):
        stream, inbox = tmp_path.name, "of.another.version"
        connection = await client.connect(shared.url)
        try:
            answers: asyncio.Queue[Msg] = asyncio.Queue()

            async def answer(message: Msg) -> None:
                await connection.publish(message.reply, b'{"new":1}', headers={"Rt-From": "x"})

            await connection.subscribe(inbox, cb=answers.put)
            with silenced("archibald_rt.cluster"):
                for question in (b'{"type":"new"}', b"no question", b'{"type":"stats"}'):
                    await connection.publish(f"{stream}.c.ask", question, reply=inbox)
                first = await asyncio.wait_for(answers.get(), PATIENCE.total_seconds())
                assert json.loads(first.data)["nodes"][0]["node"] == "a"

                await connection.subscribe(f"{stream}.c.ask", cb=answer)
                mark = b'{"name":"new","count":1,"watched":false,"gone":false}'
                await connection.publish(f"$KV.{stream}_state.server.x", mark)
                await connection.flush()
                asked = server.server._reception._log.peers  # type: ignore[attr-defined]  # noqa: SLF001 - when it knows of it
                await asked.meet()
                stats = await server.stats()
                assert ([each["node"] for each in stats["nodes"]], stats["missing"]) == (["a"], [])
                listed = json.loads((await server.get("/internal/connections")).body)
                assert listed["connections"] == []
        finally:
            await connection.close()


@pytest.mark.gen_test
async def test_a_server_alone_says_nothing_of_others(tmp_path: Path) -> None:
    async with harness(tmp_path) as at, watching(at) as watch, await at.connect("u"):
        assert not {"nodes", "missing"} & set(await at.stats())
        answer = json.loads((await at.get("/internal/connections")).body)
        assert list(answer) == ["connections", "total"]
        assert "node" not in answer["connections"][0]
        assert "node" not in (await watch.until("rt.connected"))["payload"]


@pytest.mark.gen_test
async def test_who_watches_sees_what_becomes_of_devices_at_all_servers(
    tmp_path: Path, shared: NatsServer
) -> None:
    async with several(tmp_path, shared.url, "a", "b") as (first, second):
        async with watching(first) as everything, watching(first, "?user=u") as one:
            # The other server knows by then that somebody watches.
            await eventually(lambda: tap_of(second).watchers)
            device = await second.connect("u")
            await device.take(2)
            await device.close()
            for watch in (one, everything):
                assert (await _until_of(watch, "rt.connected", "u"))["node"] == "b"
                assert (await _until_of(watch, "rt.disconnected", "u"))["node"] == "b"
            await (await first.connect("u")).take(2)
            for watch in (one, everything):
                assert (await _until_of(watch, "rt.connected", "u"))["node"] == "a"
            # An event is seen once, wherever it was emitted and how many have the user's devices.
            await second.emit({"userId": "u", "type": "ONE"})
            await second.emit({"userId": "u", "type": "TWO", "durable": False})
            await first.emit({"userId": "u", "type": "THREE", "durable": False})
            seen = [await one.next() for _ in range(3)]
            # What is transient has an order at each server.
            assert sorted(each["type"] for each in seen) == ["ONE", "THREE", "TWO"]
            assert [each["delivered"] for each in seen] == [1, 1, 1]
            await eventually(lambda: tap_of(first).watched == 2)
        async with watching(first) as here, watching(second) as there:
            # One that starts hears of it as well.
            overrides = settings_of(shared.url, tmp_path.name, nats__node="c")
            async with serving(tmp_path, overrides) as third:
                await eventually(lambda: tap_of(third).watchers)
                await third.connect("w")
                for watch in (here, there):
                    assert (await _until_of(watch, "rt.connected", "w"))["node"] == "c"
            # Both send to one another now, and nothing goes round.
            await eventually(lambda: tap_of(first).watched < len(tap_of(first).watchers))
            await eventually(lambda: tap_of(second).watched < len(tap_of(second).watchers))
            await first.connect("x")
            await _until_of(there, "rt.connected", "x")
            await second.connect("y")
            await _until_of(here, "rt.connected", "y")
            await first.connect("z")
            await _until_of(there, "rt.connected", "z")
            connected = [each for each in there.seen if each["type"] == "rt.connected"]
            assert [each["payload"]["userId"] for each in connected] == ["w", "x", "y", "z"]
        # When nobody watches any more nothing is sent.
        await eventually(lambda: not tap_of(second).watchers)


async def _until_of(watch: Any, message_type: str, user: str) -> dict[str, Any]:
    while True:
        payload: dict[str, Any] = (await watch.until(message_type))["payload"]
        if payload["userId"] == user:
            return payload
