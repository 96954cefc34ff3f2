"""Following a stream: ``eventlog.nats.follower``."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from archibald_rt.errors import LogBrokenError
from archibald_rt.eventlog import Retention
from archibald_rt.eventlog.nats import follower as module
from archibald_rt.eventlog.nats.engine import NatsLog
from archibald_rt.eventlog.nats.follower import Follower
from archibald_rt.eventlog.nats.jet import Got, Jet, Message
from archibald_rt.eventlog.nats.names import Names
from archibald_rt.eventlog.nats.opening import open_nats
from engines import emission, numbered, stored
from natslogs import held_back, jet_of
from natsservers import NatsServer, nats_server
from support import eventually


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


class Followed:
    """What a follower has taken and missed, in this order, and what was wrong."""

    def __init__(self, jet: Jet, names: Names, *, after: int) -> None:
        self.seen: list[int | tuple[str, int]] = []
        self.broken: list[BaseException] = []
        self.follower = Follower(
            jet,
            names.stream,
            names.followed,
            self._take,
            after=after,
            probe=names.probe,
            missed=self._missed,
            doubted=print,
            broken=self.broken.append,
        )

    async def _take(self, got: Got) -> None:
        self.seen.append(got.seq)

    async def _missed(self, through: int) -> None:
        self.seen.append(("missed through", through))

    async def at(self, seq: int) -> None:
        await eventually(lambda: self.follower.position >= seq)


@asynccontextmanager
async def following(jet: Jet, names: Names, *, after: int = 0) -> AsyncIterator[Followed]:
    followed = Followed(jet, names, after=after)
    await followed.follower.start()
    try:
        yield followed
    finally:
        await followed.follower.close()


async def publish(jet: Jet, names: Names, user: str, size: int = 10) -> int:
    return await jet.store([Message(names.durable(user), b"x" * size)])


async def by_count(jet: Jet, names: Names) -> None:
    for _ in range(4):
        await publish(jet, names, "busy")


async def by_size(jet: Jet, names: Names) -> None:
    for number in range(3):
        await publish(jet, names, f"large{number}", 30_000)


async def by_age(jet: Jet, names: Names) -> None:
    await publish(jet, names, "old")
    info = await jet.ask(f"STREAM.INFO.{names.stream}")
    assert info is not None

    async def gone() -> bool:
        return await jet.first(names.stream, names.durable("old")) is None

    young = dict.fromkeys(("max_age", "duplicate_window"), 200_000_000)
    await jet.ask(f"STREAM.UPDATE.{names.stream}", {**info["config"], **young})
    await eventually(gone)
    # What comes after it is not to grow old on its way.
    await jet.ask(f"STREAM.UPDATE.{names.stream}", info["config"])


async def by_erasing(jet: Jet, names: Names) -> None:
    await publish(jet, names, "erased")
    await jet.ask(f"STREAM.PURGE.{names.stream}", {"filter": names.durable("erased")})


async def by_hand(jet: Jet, names: Names) -> None:
    seq = await publish(jet, names, "v")
    await jet.ask(f"STREAM.MSG.DELETE.{names.stream}", {"seq": seq})


@pytest.mark.parametrize(
    ("limits", "delete"),
    [
        (Retention(max_events_per_user=2), by_count),
        (Retention(max_size=50_000), by_size),
        (Retention(), by_age),
        (Retention(), by_erasing),
        (Retention(), by_hand),
    ],
    ids=["count", "size", "age", "erasure", "hand"],
)
@pytest.mark.gen_test
async def test_what_is_deleted_before_it_came_is_told_before_anything_later_comes(
    server: NatsServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limits: Retention,
    delete: Any,
) -> None:
    # It is not to be asked for anew because this machine stood still.
    monkeypatch.setattr(module, "MISSED", 10**6)
    names = Names(tmp_path.name)
    async with (
        open_nats([server.url], names.stream, retention=limits),
        jet_of(server) as jet,
        following(jet, names) as followed,
    ):
        await publish(jet, names, "u")
        await followed.at(1)
        async with held_back(jet, names.stream):
            await delete(jet, names)
            last = await publish(jet, names, "u")
        await followed.at(last)
        assert followed.seen == [1, ("missed through", last)]
        after = await publish(jet, names, "u")
        await followed.at(after)
        assert followed.seen[2:] == [after]
        assert not followed.broken


@pytest.mark.gen_test
async def test_what_is_deleted_behind_a_lost_connection_is_told_though_nothing_comes_after_it(
    server: NatsServer, tmp_path: Path
) -> None:
    names = Names(tmp_path.name)
    async with (
        open_nats([server.url], names.stream),
        jet_of(server) as jet,
        following(jet, names) as followed,
    ):
        await publish(jet, names, "u")
        await followed.at(1)
        async with held_back(jet, names.stream):
            await publish(jet, names, "u")
            await jet.ask(f"STREAM.PURGE.{names.stream}")
            followed.follower.restart()
            await followed.at(2)
        assert followed.seen == [1, ("missed through", 2)]


@pytest.mark.gen_test
async def test_what_is_deleted_before_it_came_is_told_though_nothing_comes_after_it(
    server: NatsServer, tmp_path: Path
) -> None:
    names = Names(tmp_path.name)
    async with (
        open_nats([server.url], names.stream),
        jet_of(server) as jet,
        following(jet, names) as followed,
    ):
        await publish(jet, names, "u")
        await followed.at(1)
        async with held_back(jet, names.stream):
            await publish(jet, names, "u")
            await by_erasing(jet, names)
        await followed.at(3)
        assert followed.seen == [1, 2, ("missed through", 3)]
        # And it goes on.
        await publish(jet, names, "u")
        await followed.at(4)
        assert followed.seen[3:] == [4]


@pytest.mark.gen_test
async def test_keys_and_probes_and_fences_are_no_loss(server: NatsServer, tmp_path: Path) -> None:
    names = Names(tmp_path.name)
    async with (
        open_nats([server.url], names.stream) as log,
        jet_of(server) as jet,
        following(jet, names) as followed,
    ):
        await stored(log, emission(key="a"), emission(), emission(key="b"), emission(key="c"))
        await log.probe()
        await stored(log, emission(key="d"))
        await jet.store([Message(names.fence("0" * 16), b"", 0)])
        await stored(log, emission())
        await followed.at(12)
        assert followed.seen == [2, 3, 5, 7, 8, 10, 11, 12]
        # Begun anew in between, where a key comes first.
    for after in range(12):
        async with jet_of(server) as jet, following(jet, names, after=after) as followed:
            await followed.at(12)
            assert ("missed through", 12) not in followed.seen


@pytest.mark.gen_test
async def test_a_stream_that_lost_its_end_is_not_followed(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY", 0.01)
    names = Names(tmp_path.name)
    async with open_nats([server.url], names.stream) as log, jet_of(server) as jet:
        await stored(log, *numbered(["u"] * 5))
        with pytest.raises(LogBrokenError, match="has lost events"):
            async with following(jet, names, after=6):
                pass


@pytest.mark.gen_test
async def test_a_leader_that_is_not_as_far_yet_is_waited_for(
    server: NatsServer, tmp_path: Path
) -> None:
    names = Names(tmp_path.name)
    async with open_nats([server.url], names.stream) as log, jet_of(server) as jet:
        await stored(log, *numbered(["u"] * 5))
        followed = Followed(jet, names, after=6)
        starting = asyncio.ensure_future(followed.follower.start())
        await stored(log, emission())
        await starting
        await stored(log, emission())
        await followed.at(7)
        assert followed.seen == [7]
        await followed.follower.close()


@pytest.mark.gen_test
async def test_a_message_that_can_t_be_taken_for_a_fault_of_ours_is_not_passed_over(
    server: NatsServer, tmp_path: Path
) -> None:
    names = Names(tmp_path.name)

    async def take(_: Got) -> None:
        raise ZeroDivisionError

    broken: list[BaseException] = []
    async with open_nats([server.url], names.stream) as log, jet_of(server) as jet:
        follower = Follower(
            jet,
            names.stream,
            names.followed,
            take,
            after=0,
            probe=names.probe,
            doubted=print,
            broken=broken.append,
        )
        await follower.start()
        await stored(log, emission())
        await eventually(lambda: broken)
        assert isinstance(broken[0], ZeroDivisionError)
        assert follower.position == 0
        await follower.close()


@pytest.mark.gen_test
async def test_what_others_send_to_where_messages_come_stops_nothing(
    server: NatsServer, tmp_path: Path
) -> None:
    names = Names(tmp_path.name)
    async with (
        open_nats([server.url], names.stream) as log,
        jet_of(server) as jet,
        following(jet, names) as followed,
    ):
        subscription = followed.follower._subscription  # noqa: SLF001 - a name that nobody is told
        assert subscription is not None
        for reply in ("", "x.y", "$JS.ACK.s.c.1.no.1.1.1"):
            await jet.connection.publish(subscription.subject, b"?", reply=reply)
        await jet.connection.publish(subscription.subject, headers={"Status": "409"})
        await stored(log, emission(), emission())
        await followed.at(2)
        assert (followed.seen, followed.broken) == ([1, 2], [])


@pytest.mark.gen_test
async def test_a_stream_that_falls_silent_is_asked_for_anew(
    server: NatsServer, tmp_path: Path
) -> None:
    names = Names(tmp_path.name)
    async with (
        open_nats([server.url], names.stream) as log,
        jet_of(server) as jet,
        jet_of(server) as operator,
    ):
        followed = Followed(jet, names, after=0)
        await followed.follower.start()
        listed = await operator.ask(f"CONSUMER.NAMES.{names.stream}")
        assert listed is not None
        for name in listed["consumers"]:
            await operator.ask(f"CONSUMER.DELETE.{names.stream}.{name}")
        await stored(log, emission())
        await followed.at(1)
        assert followed.seen == [1]
        await followed.follower.close()


@pytest.mark.gen_test
async def test_a_log_that_is_followed_anew_misses_and_doubles_nothing(
    server: NatsServer, tmp_path: Path
) -> None:
    async with open_nats([server.url], tmp_path.name) as log:
        arrived: list[int] = []
        for _ in range(20):
            await log.append([numbered(["u"] * 40)])
            # Some of them are on their way.
            log.reconnected()
            arrived += [each.seq for each in _taken(log)]
            await asyncio.sleep(0)
        await eventually(lambda: log.head == 800)
        arrived += [each.seq for each in _taken(log)]
        assert arrived == list(range(1, 801))


def _taken(log: NatsLog) -> list[Any]:
    taken = []
    while (arrival := log.peers.take()) is not None:
        taken.append(arrival)
    return taken
