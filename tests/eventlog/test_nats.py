"""What only a log in JetStream does: `eventlog.nats`."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from archibald_rt.errors import LogOpenError, LogUnavailableError
from archibald_rt.eventlog import Retention, Stored
from archibald_rt.eventlog.nats import arrivals, follower
from archibald_rt.eventlog.nats.arrivals import UNHEARD
from archibald_rt.eventlog.nats.definition import require_version
from archibald_rt.eventlog.nats.engine import NatsLog
from archibald_rt.eventlog.nats.jet import Message, SequenceError
from archibald_rt.eventlog.nats.names import Names, text_of, token
from archibald_rt.eventlog.nats.opening import open_nats
from archibald_rt.events import Emission
from archibald_rt.revocations import TokenRevocation, UserRevocation
from engines import COMPOSED, DECOMPOSED, emission, numbered, page, seqs, stored
from natslogs import held_back, jet_of
from natsservers import NatsServer, nats_server
from support import eventually


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


def transient(payload: str, user: str | None = "u") -> Emission:
    durable = emission(user, payload)
    return Emission(user, durable.tail, durable.timestamp, 0, durable=False)


# Names


@pytest.mark.parametrize(
    "user", ["u", "*", ">", "a.b", "a b", "all", "", COMPOSED, DECOMPOSED, "\U0001f600" * 256]
)
def test_a_user_is_one_token_of_a_subject_and_read_back_from_it(user: str) -> None:
    names = Names("RT")
    written = token(user)
    assert not set(written) & set("*>. \t")
    assert text_of(written) == user
    assert names.user(names.durable(user)) == user
    assert names.user(names.transient(user)) == user
    assert names.durable(user).count(".") == 4


def test_the_broadcasts_are_no_user_s() -> None:
    names = Names("RT")
    assert names.user(names.durable(None)) is None
    assert names.durable(None) != names.durable("all")
    assert names.key(None, "k") != names.key("all", "k")


# Opening


@pytest.mark.parametrize(("major", "minor"), [(2, 9), (2, 11), (1, 99)])
def test_a_server_that_is_too_old_is_refused(major: int, minor: int) -> None:
    with pytest.raises(LogOpenError, match=r"expected 2\.12 or newer"):
        require_version(major, minor)
    require_version(2, 12)
    require_version(3, 0)


@pytest.mark.gen_test
async def test_a_stream_with_other_limits_is_told_and_not_changed(
    server: NatsServer, tmp_path: Path
) -> None:
    name = tmp_path.name
    async with open_nats([server.url], name, retention=Retention(60_000, 7, 2**20)):
        pass
    async with jet_of(server) as jet:
        info = await jet.ask(f"STREAM.INFO.{name}")
        assert info is not None
        before = info["config"]
        assert (before["max_age"], before["max_bytes"]) == (60_000_000_000, 2**20)
        assert before["max_msgs_per_subject"] == 8
        async with open_nats([server.url], name, retention=Retention(60_000, 3, 2**20)) as log:
            # It goes by what the stream keeps.
            await stored(log, *numbered(["u"] * 9))
            read = await page(log)
            assert (seqs(read), read.lost) == ([3, 4, 5, 6, 7, 8, 9], 2)
        info = await jet.ask(f"STREAM.INFO.{name}")
        assert info is not None
        assert info["config"] == before


@pytest.mark.gen_test
async def test_a_stream_that_is_no_log_is_refused(server: NatsServer, tmp_path: Path) -> None:
    async with jet_of(server) as jet:
        name = tmp_path.name
        await jet.ask(f"STREAM.CREATE.{name}", {"name": name, "subjects": [f"{name}.>"]})
        with pytest.raises(LogOpenError, match="not one of archibald_rt"):
            async with open_nats([server.url], name):
                pass


@pytest.mark.gen_test
async def test_two_servers_that_start_at_once_open_one_log(
    server: NatsServer, tmp_path: Path
) -> None:
    async def epoch() -> str:
        async with open_nats([server.url], tmp_path.name) as log:
            return log.epoch

    assert len(set(await asyncio.gather(*(epoch() for _ in range(5))))) == 1


# Storing


@pytest.mark.gen_test
async def test_a_batch_is_stored_whole_or_not_at_all(server: NatsServer, tmp_path: Path) -> None:
    name = tmp_path.name
    async with open_nats([server.url], name) as log, jet_of(server) as jet:
        await stored(log, emission(key="k"))
        subjects = Names(name)
        with pytest.raises(SequenceError):
            await jet.store(
                [
                    Message(subjects.durable("u"), b"first"),
                    Message(subjects.key("u", "k"), b"k", 0),
                    Message(subjects.durable("u"), b"last"),
                ]
            )
        assert len((await page(log, through=100)).events) == 1


@pytest.mark.gen_test
async def test_what_jetstream_refuses_is_not_taken_for_stored(
    server: NatsServer, tmp_path: Path
) -> None:
    stream = tmp_path.name
    async with open_nats([server.url], stream) as log, jet_of(server) as jet:
        info = await jet.ask(f"STREAM.INFO.{stream}")
        assert info is not None
        await jet.ask(f"STREAM.UPDATE.{stream}", {**info["config"], "max_msg_size": 10})
        for group in ([emission()], numbered(["u", "v"]), [emission(key="k")]):
            with pytest.raises(LogUnavailableError, match="refused to store"):
                await log.append([group])
        await jet.ask(f"STREAM.UPDATE.{stream}", info["config"])
        (kept,) = await stored(log, emission(key="k"))
        assert not kept.duplicate
        assert seqs(await page(log)) == [kept.seq]


@pytest.mark.gen_test
async def test_a_key_is_free_again_when_its_event_is_gone(
    server: NatsServer, tmp_path: Path
) -> None:
    async with open_nats([server.url], tmp_path.name) as log:
        (first,) = await stored(log, emission(key="k"))
        async with jet_of(server) as jet:
            names = Names(tmp_path.name)
            body = {"filter": names.durable("u")}
            await jet.ask(f"STREAM.PURGE.{names.stream}", body)
        (second,) = await stored(log, emission(payload="2", key="k"))
        assert not second.duplicate
        assert second.seq > first.seq
        assert await stored(log, emission(payload="2", key="k")) == [
            Stored(second.seq, second.timestamp, duplicate=True)
        ]


@pytest.mark.gen_test
async def test_an_erased_user_s_events_and_keys_are_gone_and_others_stay(
    server: NatsServer, tmp_path: Path
) -> None:
    async with open_nats([server.url], tmp_path.name) as log:
        await stored(log, emission("v"), emission("u", key="k"), emission("u"), emission(None))

        async def plainly(step: Any) -> int:
            done: int = await step()
            return done

        assert await log.erase("u", plainly) == 2
        assert await log.erase("u", plainly) == 0
        head = log.head
        read = await page(log)
        assert (len(read.events), read.lost) == (1, head - 1)
        assert log.deleted_through("u") == head - 1
        async with jet_of(server) as jet:
            # Its keys may say something of a user as well.
            assert await jet.first(tmp_path.name, Names(tmp_path.name).keys_of("u")) is None
        assert (await page(log, "v")).lost == 0
        (again,) = await stored(log, emission("u", "2", key="k"))
        assert not again.duplicate


@pytest.mark.gen_test
async def test_an_erasure_is_told_by_a_server_that_has_not_heard_of_it(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It is not to be asked for anew because this machine stood still.
    monkeypatch.setattr(follower, "MISSED", 10**6)

    async def plainly(step: Any) -> int:
        done: int = await step()
        return done

    name = tmp_path.name
    async with (
        open_nats([server.url], name) as first,
        open_nats([server.url], name) as second,
        jet_of(server) as jet,
    ):
        await stored(first, *numbered(["v", "u", "u"]))
        async with held_back(jet, f"KV_{name}_state"):
            assert await first.erase("u", plainly) == 2
            read = await page(second, through=3)
            assert (seqs(read), read.lost) == ([], 3)
            assert (await page(second, "v", through=3)).lost == 0
            assert second.deleted_through("u") == 0
        await eventually(lambda: second.deleted_through("u") == 3)


@pytest.mark.gen_test
async def test_what_went_by_age_or_size_is_told_to_whoever_may_have_missed_it(
    server: NatsServer, tmp_path: Path
) -> None:
    async with open_nats([server.url], tmp_path.name) as log:
        await stored(log, *numbered(["v", "u", "u", "v", "u"]))
        async with jet_of(server) as jet:
            await jet.ask(f"STREAM.PURGE.{tmp_path.name}", {"seq": 4})
        read = await page(log)
        assert (seqs(read), read.lost) == ([5], 3)
        assert await log.first("u") == 5
        assert await log.first("nobody") is None


@pytest.mark.gen_test
async def test_revocations_are_known_everywhere_and_the_later_moment_counts(
    server: NatsServer, tmp_path: Path
) -> None:
    async def plainly(step: Any) -> int:
        done: int = await step()
        return done

    heard: list[object] = []
    async with (
        open_nats([server.url], tmp_path.name) as first,
        open_nats([server.url], tmp_path.name) as second,
    ):
        first.peers.attach(_hearing(heard))
        for log, before in ((first, 5), (second, 9), (first, 7)):
            await log.revoke(UserRevocation("u", before), plainly)
        await second.revoke(TokenRevocation("t", 3), plainly)
        await eventually(lambda: TokenRevocation("t", 3) in heard)
        # What was revoked here is not heard of here; what was revoked there once.
        assert heard == [UserRevocation("u", 9), TokenRevocation("t", 3)]
        known = [UserRevocation("u", 9), TokenRevocation("t", 3)]
        assert sorted(await first.revocations(), key=str) == sorted(known, key=str)
        await first.forget_revoked(4, plainly)
    async with open_nats([server.url], tmp_path.name) as third:
        assert await third.revocations() == [UserRevocation("u", 9)]


def _hearing(heard: list[object]) -> Any:
    hooks = {name: getattr(UNHEARD, name) for name in UNHEARD.__struct_fields__}
    return type(UNHEARD)(**{**hooks, "revoked": heard.append})


# What arrives


@pytest.mark.gen_test
async def test_a_transient_event_waits_for_the_durable_one_before_it(
    server: NatsServer, tmp_path: Path
) -> None:
    async with open_nats([server.url], tmp_path.name) as log:
        peers = log.peers
        await stored(log, *numbered(["u"]))
        peers.defer(transient('"after 3"'), 3)
        peers.defer(transient('"after 2"'), 2)
        peers.defer(transient('"after 1"'), 1)
        peers.defer(transient('"after 2 too"'), 2)
        assert [each.after for each in _taken(log)] == [1]
        await log.append([numbered(["u", "v", "u"])])
        await eventually(lambda: log.head == 4)
        assert [(each.seq, each.after) for each in _taken(log)] == [
            (2, 2),
            (None, 2),
            (None, 2),
            (3, 3),
            (None, 3),
            (4, 4),
        ]


@pytest.mark.gen_test
async def test_an_outage_leaves_no_subscription_and_no_task_behind(tmp_path: Path) -> None:
    with nats_server(tmp_path / "nats") as own:
        async with open_nats([own.url], "RT") as log:
            await stored(log, emission())
            connection = log._jet.connection  # noqa: SLF001 - what it keeps is to be counted
            kept = connection._subs  # noqa: SLF001 - as above
            before = len(kept), len(asyncio.all_tasks())
            doubts: list[object] = []
            hooks = {name: getattr(UNHEARD, name) for name in UNHEARD.__struct_fields__}
            log.peers.attach(type(UNHEARD)(**{**hooks, "doubted": doubts.append}))
            own.kill()
            await eventually(lambda: not connection.is_connected)
            log.reconnected()
            # Both followers try to go on several times.
            await eventually(lambda: len(doubts) > 2 * 4)
            assert len(kept) <= before[0]
            own.start()

            async def works() -> bool:
                try:
                    await log.probe()
                except LogUnavailableError:
                    return False
                return True

            await eventually(works)
            await stored(log, emission())
            await eventually(lambda: len(kept) == before[0])
            await eventually(lambda: len(asyncio.all_tasks()) <= before[1] + 1)


@pytest.mark.gen_test
async def test_transient_events_that_wait_are_bounded_and_counted(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "HELD", (3, 200))
    monkeypatch.setattr(arrivals, "WAITING", 300)
    async with (
        open_nats([server.url], tmp_path.name) as log,
        open_nats([server.url], tmp_path.name) as other,
    ):
        # Behind an event that has not come: too many, then too large.
        for number in range(5):
            log.peers.defer(transient(str(number)), 9)
        assert log.peers.dropped == 2
        log.peers.defer(transient('"%s"' % ("x" * 100)), 9)
        assert log.peers.dropped == 5
        # Nobody takes what another server sends.
        for number in range(50):
            await other.peers.tell(transient(str(number)), 0)
        await eventually(lambda: log.peers.dropped > 5 + 30)
        assert 1 < len(_taken(log)) < 10


@pytest.mark.gen_test
async def test_a_stream_that_was_made_anew_is_not_taken_for_the_old_one(
    server: NatsServer, tmp_path: Path
) -> None:
    name = tmp_path.name
    broken: list[object] = []
    hooks = {each: getattr(UNHEARD, each) for each in UNHEARD.__struct_fields__}
    async with open_nats([server.url], name) as log, jet_of(server) as jet:
        log.peers.attach(type(UNHEARD)(**{**hooks, "broken": broken.append}))
        await stored(log, emission())
        await jet.ask(f"STREAM.DELETE.{name}")
        async with open_nats([server.url], name) as other:
            assert other.epoch != log.epoch
            await stored(other, *numbered(["u"] * 3))
            log.reconnected()
            await eventually(lambda: broken)
            assert "made anew" in str(broken[0])


@pytest.mark.gen_test
async def test_what_others_put_into_the_stream_stops_nothing(
    server: NatsServer, tmp_path: Path
) -> None:
    name = tmp_path.name
    async with open_nats([server.url], name) as log, jet_of(server) as jet:
        for subject in (f"{name}.d.1.u.u%", f"{name}.d.x", f"{name}.d.1.u.u_w"):
            await jet.store([Message(subject, b"?")])
        await jet.connection.publish(f"{name}.t.1.u.u%", b"?", headers={"Rt-After": "0"})
        await jet.connection.publish(f"{name}.t.all", b"?")
        await jet.store([Message(f"$KV.{name}_state.revoked.user.udQ", b"never")])
        await jet.store([Message(f"$KV.{name}_state.revoked.user.u_w", b"9")])
        (last,) = await stored(log, emission())
        assert last.seq == log.head
        assert await log.revocations() == []


def _taken(log: NatsLog) -> list[Any]:
    taken = []
    while (arrival := log.peers.take()) is not None:
        taken.append(arrival)
    return taken


@pytest.mark.gen_test
async def test_nothing_is_stored_or_read_without_a_connection(tmp_path: Path) -> None:
    with nats_server(tmp_path / "nats") as own:
        async with open_nats([own.url], "RT") as log:
            await stored(log, emission())
            doubts: list[object] = []
            hooks = {name: getattr(UNHEARD, name) for name in UNHEARD.__struct_fields__}
            log.peers.attach(type(UNHEARD)(**{**hooks, "doubted": doubts.append}))
            own.kill()
            await eventually(lambda: doubts)
            with pytest.raises(LogUnavailableError, match="not connected"):
                await log.append([[emission()]])
            with pytest.raises(LogUnavailableError, match="not connected"):
                await log.append([numbered(["u", "u"])])
            with pytest.raises(LogUnavailableError, match="not connected"):
                await page(log)
            with pytest.raises(LogUnavailableError):
                await log.probe()
            assert await log.size() >= 0
            own.start()

            async def probed() -> bool:
                try:
                    await log.probe()
                except LogUnavailableError:
                    return False
                return True

            await eventually(probed)
            assert [each.seq for each in await stored(log, *numbered(["u", "u"]))][1] == log.head
            assert [event.tail for event in (await page(log)).events] == [
                emission().tail,
                *(each.tail for each in numbered(["u", "u"])),
            ]
