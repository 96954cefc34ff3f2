"""Trying again what may have been stored, without a key of one's own: ``eventlog.nats.minted``."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from archibald_rt.errors import LogUncertainError
from archibald_rt.eventlog import KeyConflict
from archibald_rt.eventlog.nats.engine import NatsLog
from archibald_rt.eventlog.nats.jet import Jet, Message, SequenceError
from archibald_rt.eventlog.nats.minted import Minted, parse
from archibald_rt.eventlog.nats.opening import open_nats
from archibald_rt.events import Emission
from engines import appended, emission, numbered, page, stored
from natslogs import jet_of
from natsservers import NatsServer, nats_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.mark.parametrize(
    "key", ["", "k", "rt-1", "rt-1-00-1", "RT-1-0123456789abcdef-1", "rt-1-0123456789abcdef-1 "]
)
def test_a_key_of_an_emitter_s_own_is_not_taken_for_one_that_was_made(key: str) -> None:
    assert parse(key) is None


def test_a_key_that_was_made_is_read_back() -> None:
    made = Minted(7, "0123456789abcdef", 12)
    assert parse(str(made)) == made


class Unheard(Jet):
    """JetStream whose acknowledgements are lost on the way, or (not ``stores``) the events."""

    stores = True
    lost: Sequence[Message] = ()
    name = ""

    async def store(
        self, messages: Sequence[Message], *, after: int | None = None, name: str = ""
    ) -> int:
        if "fence" in messages[0].subject:
            return await super().store(messages)
        self.lost, self.name = messages, name
        if self.stores:
            await super().store(messages, after=after, name=name)
        raise LogUncertainError("JetStream did not acknowledge in time")


async def lost(
    log: NatsLog, *groups: Sequence[Emission], stores: bool
) -> tuple[Unheard, list[str]]:
    """Append without hearing of it; returns with which keys to try again."""
    appender = log._appender  # noqa: SLF001 - what is between it and JetStream is to fail
    plainly = appender._jet  # noqa: SLF001 - as above
    unheard = Unheard(plainly.connection)
    unheard.stores = stores
    appender._jet = unheard  # noqa: SLF001 - as above
    try:
        with pytest.raises(LogUncertainError) as raised:
            await log.append(groups)
    finally:
        appender._jet = plainly  # noqa: SLF001 - as above
    keys = [key for group in raised.value.keys for key in group if key is not None]
    assert len(keys) == sum(map(len, groups))
    return unheard, keys


def again(emissions: Sequence[Emission], keys: Sequence[str]) -> list[Emission]:
    return [
        emission(each.user, str(number), key=key)
        for number, (each, key) in enumerate(zip(emissions, keys, strict=True), 1)
    ]


@pytest.mark.parametrize("users", [["u"], ["u", "u", "v"]], ids=["one", "a batch"])
@pytest.mark.gen_test
async def test_what_was_stored_unheard_is_found_again_at_any_server(
    server: NatsServer, tmp_path: Path, users: list[str]
) -> None:
    async with (
        open_nats([server.url], tmp_path.name) as first,
        open_nats([server.url], tmp_path.name) as second,
    ):
        await stored(first, *numbered(["u", "v"]))
        emissions = numbered(users)
        _, keys = await lost(first, emissions, stores=True)
        for log in (second, first):
            found = await stored(log, *again(emissions, keys))
            assert [each.seq for each in found] == [*range(3, 3 + len(users))]
            assert all(each.duplicate for each in found)
        # With another content it is what a key's repetition is.
        (conflict,) = await appended(second, [[emission("u", '"other"', key=keys[0])]])
        assert conflict == KeyConflict([0])
        assert len((await page(first, through=100)).events) == 1 + users.count("u")


@pytest.mark.parametrize("users", [["u"], ["u", "u", "v"]], ids=["one", "a batch"])
@pytest.mark.gen_test
async def test_what_was_not_stored_is_stored_once_and_its_first_try_comes_too_late(
    server: NatsServer, tmp_path: Path, users: list[str]
) -> None:
    async with (
        open_nats([server.url], tmp_path.name) as first,
        open_nats([server.url], tmp_path.name) as second,
        jet_of(server) as jet,
    ):
        emissions = numbered(users)
        unheard, keys = await lost(first, emissions, stores=False)
        tried = await stored(second, *again(emissions, keys))
        assert not any(each.duplicate for each in tried)
        # It was on its way all the time, and arrives now.
        with pytest.raises(SequenceError):
            await jet.store(unheard.lost, name=unheard.name)
        repeated = await stored(first, *again(emissions, keys))
        assert [each.seq for each in repeated] == [each.seq for each in tried]
        assert all(each.duplicate for each in repeated)
        assert len((await page(first, through=100)).events) == users.count("u")


@pytest.mark.gen_test
async def test_each_emission_of_a_publish_has_a_key_and_keeps_its_own(
    server: NatsServer, tmp_path: Path
) -> None:
    async with open_nats([server.url], tmp_path.name) as log:
        groups = [[emission("u", "1", key="own")], [emission("u", "2"), emission("u", "2")]]
        _, keys = await lost(log, *groups, stores=True)
        assert keys[0] == "own"
        assert len(set(keys)) == 3
        tries = [emission("u", each, key=key) for each, key in zip("122", keys, strict=True)]
        # Sent again in any order, and apart.
        found = [(await stored(log, each))[0] for each in reversed(tries)]
        assert all(each.duplicate for each in found)
        assert [each.seq for each in found] == [4, 3, 2]


@pytest.mark.gen_test
async def test_a_try_again_whose_own_outcome_is_unknown_is_tried_again_with_the_same_key(
    server: NatsServer, tmp_path: Path
) -> None:
    async with open_nats([server.url], tmp_path.name) as log:
        _, keys = await lost(log, [emission("u")], stores=False)
        _, later = await lost(log, [emission("u", key=keys[0])], stores=True)
        assert later == keys
        (found,) = await stored(log, emission("u", key=keys[0]))
        assert found.duplicate
        assert len((await page(log, through=100)).events) == 1
