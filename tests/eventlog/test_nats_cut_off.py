"""What a leader that was cut off says before it knows of that is not believed: `eventlog.nats`.

Such a leader says what it knew when it was cut off. Here that is what the real one said earlier.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import nats as client
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from archibald_rt.errors import LogUnavailableError, LogUncertainError
from archibald_rt.eventlog import EventLog
from archibald_rt.eventlog.nats import follower as followers
from archibald_rt.eventlog.nats import jet as jets
from archibald_rt.eventlog.nats import reading
from archibald_rt.eventlog.nats.appending import Appender
from archibald_rt.eventlog.nats.arrivals import Arrivals
from archibald_rt.eventlog.nats.follower import Follower
from archibald_rt.eventlog.nats.jet import Got, Jet
from archibald_rt.eventlog.nats.marks import Marks
from archibald_rt.eventlog.nats.names import Names
from archibald_rt.eventlog.nats.opening import open_nats
from archibald_rt.eventlog.nats.reading import Reader
from archibald_rt.eventlog.nats.state import State
from archibald_rt.events import Emission
from engines import emission, numbered, stored
from natsservers import NatsServer, nats_server
from support import PATIENCE, eventually


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


class CutOff(Jet):
    """Is answered about streams what was answered first, until ``mended``."""

    mended = False

    def __init__(self, connection: Client) -> None:
        super().__init__(connection)
        self._known: dict[str, dict[str, Any] | None] = {}

    async def ask(
        self, what: str, body: Mapping[str, Any] | None = None, *, once: bool = False
    ) -> dict[str, Any] | None:
        """Ask, or answer what is known."""
        answer = await super().ask(what, body, once=once)
        if self.mended or not what.startswith("STREAM.INFO."):
            return answer
        return self._known.setdefault(what, answer)


@asynccontextmanager
async def cut_off(server: NatsServer, name: str) -> AsyncIterator[CutOff]:
    """Connect to a stream of 7 events whose leader knows of 5."""
    connection = await client.connect(server.url)
    try:
        async with open_nats([server.url], name) as log:
            await stored(log, *numbered(["u"] * 5))
            jet = CutOff(connection)
            await jet.ask(f"STREAM.INFO.{name}")
            await stored(log, *numbered(["u"] * 2))
            yield jet
    finally:
        await connection.close()


@pytest.mark.gen_test
async def test_a_cursor_is_ahead_only_of_what_can_be_stored(
    server: NatsServer, tmp_path: Path
) -> None:
    name = tmp_path.name
    async with cut_off(server, name) as jet:
        marks = Marks(jet, "", "", "n1", lapsed=print, renewed=print, watched=print)
        arrived = Arrivals(jet, Names(name), marks, position=5)
        assert await arrived.has(5)
        assert await arrived.has(7)
        assert not await arrived.has(1000)


@pytest.mark.gen_test
async def test_a_stream_that_seems_to_have_lost_its_end_is_tried_again(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followers, "RETRY", 0.0)
    name = tmp_path.name
    names = Names(name)

    async def take(_: Got) -> None:
        return

    async with cut_off(server, name) as jet:
        follower = Follower(
            jet,
            name,
            names.followed,
            take,
            after=7,
            probe=names.probe,
            doubted=print,
            broken=print,
        )
        with pytest.raises(LogUnavailableError, match="is behind"):
            await follower.start()
        jet.mended = True
        await follower.start()
        await follower.close()


@pytest.mark.gen_test
async def test_a_page_is_not_read_from_who_is_behind_this_server(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_PAUSE", 0.0)
    name = tmp_path.name
    async with cut_off(server, name) as jet:
        state = State(jet, name, revoked=print, erased=lambda: None)
        reader = Reader(jet, Names(name), state, cap=0, replicas=3)

        async def seqs(through: int) -> list[int]:
            page = await reader.page(
                "u", after=0, through=through, max_events=100, max_bytes=10_000, later_than=None
            )
            return [event.seq for event in page.events]

        assert await seqs(5) == [1, 2, 3, 4, 5]
        with pytest.raises(LogUnavailableError, match="is behind"):
            await seqs(7)
        jet.mended = True
        assert await seqs(7) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.gen_test
async def test_what_nobody_answered_is_asked_again(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jets, "ASK_EVERY", 0.1)
    monkeypatch.setattr(jets, "ANSWER_WITHIN", 20.0)
    connection = await client.connect(server.url)
    asked = 0

    async def answer(message: Msg) -> None:
        # As without a leader: what comes then is heard by nobody.
        nonlocal asked
        asked += 1
        if asked > 1:
            await message.respond(b'{"asked":2}')

    try:
        await connection.subscribe("$JS.API.TRIED", cb=answer)
        await connection.flush()
        assert await Jet(connection).ask("TRIED") == {"asked": 2}
        # What must not be done twice is not.
        asked = 0
        monkeypatch.setattr(jets, "ANSWER_WITHIN", 0.3)
        with pytest.raises(LogUnavailableError, match="TRIED in time"):
            await Jet(connection).ask("TRIED", once=True)
        assert asked == 1
    finally:
        await connection.close()


@pytest.mark.gen_test
async def test_after_one_that_nobody_answered_nothing_is_published_before_somebody_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "S"
    with nats_server(tmp_path) as alone:
        connection = await client.connect(alone.url)
        try:
            async with open_nats([alone.url], name):
                appender = Appender(Jet(connection), Names(name), lambda: 0)
                with alone.halted(), monkeypatch.context() as soon:
                    soon.setattr(jets, "ANSWER_WITHIN", 0.2)
                    soon.setattr(jets, "ASK_EVERY", 0.1)
                    with pytest.raises(LogUncertainError):
                        await appender.append([[emission("u", "1")]])
                    for _ in range(2):
                        with pytest.raises(LogUnavailableError, match="did not answer"):
                            await appender.append([[emission("u", "2")]])
                        with pytest.raises(LogUnavailableError, match="did not answer"):
                            await appender.probe()
                (group,) = await appender.append([[emission("u", "3")]])
                # The first was stored when it could be, the second never.
                assert isinstance(group, list)
                assert [each.seq for each in group] == [2]
        finally:
            await connection.close()


@pytest.mark.gen_test
async def test_what_a_server_told_on_a_connection_that_is_gone_does_not_come_back_to_it(
    server: NatsServer, tmp_path: Path
) -> None:
    connection = await client.connect(server.url)
    late: asyncio.Queue[Msg] = asyncio.Queue()
    try:
        async with (
            open_nats([server.url], tmp_path.name) as here,
            open_nats([server.url], tmp_path.name) as there,
        ):
            await connection.subscribe(f"{tmp_path.name}.t.>", cb=late.put)
            await connection.flush()
            told = await heard(late, here, "here")
            # As when the other end of a cable that was cut comes to read it.
            await connection.publish(told.subject, told.data, headers=told.headers)
            await connection.flush()
            await heard(late, there, "there")

            def arrived() -> set[bytes]:
                while (arrival := here.peers.take()) is not None:
                    assert arrival.emission is not None
                    seen.add(arrival.emission.tail)
                return seen

            seen: set[bytes] = set()
            await eventually(arrived)
            assert seen == {transient("there").tail}
    finally:
        await connection.close()


async def heard(told: "asyncio.Queue[Msg]", log: EventLog, payload: str) -> Msg:
    """Have a server tell a transient event until it is heard.

    On a connection that is given up just then, as on a machine that halts, it is lost.
    """
    assert log.peers is not None
    wanted = transient(payload)
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while True:
            await log.peers.tell(wanted, 0)
            with suppress(TimeoutError):
                while (message := await asyncio.wait_for(told.get(), 1)).data != wanted.tail:
                    pass
                return message


def transient(payload: str) -> Emission:
    durable = emission("u", f'"{payload}"')
    return Emission("u", durable.tail, durable.timestamp, 0, durable=False)
