"""Reading streams back from a replica that is behind: ``eventlog.nats.reading``."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from archibald_rt.eventlog.nats import reading, scanning
from archibald_rt.eventlog.nats.jet import Jet
from archibald_rt.eventlog.nats.names import Names
from archibald_rt.eventlog.nats.opening import open_nats
from archibald_rt.eventlog.nats.reading import Reader
from archibald_rt.eventlog.nats.state import State
from engines import numbered, stored
from natslogs import jet_of
from natsservers import NatsServer, nats_server
from support import eventually


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@asynccontextmanager
async def behind(jet: Jet, names: Names, *, through: int) -> AsyncIterator[None]:
    """Have half of all Direct Gets answered by a copy that ends at a seq, for a block.

    A mirror answers in place of the stream as a replica does; who does is up to the server.
    """
    # It takes no more than it has room for.
    mirror = {
        "name": f"{names.stream}-behind",
        "storage": "memory",
        "discard": "new",
        "max_msgs": through,
        "allow_direct": True,
        "mirror_direct": True,
        "mirror": {"name": names.stream},
    }
    await jet.ask(f"STREAM.CREATE.{mirror['name']}", mirror)

    async def full() -> bool:
        info = await jet.ask(f"STREAM.INFO.{mirror['name']}")
        return info is not None and info["state"]["messages"] == through

    await eventually(full)
    try:
        yield
    finally:
        await jet.ask(f"STREAM.DELETE.{mirror['name']}")


def nothing(*_: object) -> None:
    """Do nothing."""


@pytest.mark.gen_test
async def test_a_page_is_whole_whichever_replica_answers(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_PAUSE", 0.001)
    names = Names(tmp_path.name)
    async with open_nats([server.url], names.stream) as log, jet_of(server) as jet:
        await stored(log, *numbered(["u", "v", "u", None, "u", "v"]))
        state = State(jet, names.stream, revoked=nothing, erased=nothing)
        reader = Reader(jet, names, state, cap=0, replicas=3)
        async with behind(jet, names, through=3):
            for _ in range(20):
                page = await reader.page(
                    "u", after=0, through=6, max_events=100, max_bytes=10**6, later_than=None
                )
                assert [event.seq for event in page.events] == [1, 3, 4, 5]
                assert (page.through, page.complete) == (6, True)


@pytest.mark.gen_test
async def test_a_stream_is_read_whole_whichever_replica_answers(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "_PAUSE", 0.001)
    names = Names(tmp_path.name)
    async with open_nats([server.url], names.stream) as log, jet_of(server) as jet:
        await stored(log, *numbered(["u", "v", "u", None, "u", "v"]))
        async with behind(jet, names, through=3):
            for _ in range(20):
                seqs: list[int] = []
                while found := await scanning.step(
                    jet, names.stream, names.events, after=max(seqs, default=0), through=6
                ):
                    seqs += [got.seq for got in found]
                assert seqs == [1, 2, 3, 4, 5, 6]
