"""Who shares a log in JetStream, and who may serve: `eventlog.nats.marks` and `asking`."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import nats as client
import pytest

from archibald_rt.errors import LogUnavailableError, LogUncertainError
from archibald_rt.eventlog.base import Step
from archibald_rt.eventlog.nats import asking, marks
from archibald_rt.eventlog.nats.arrivals import UNHEARD
from archibald_rt.eventlog.nats.engine import NatsLog
from archibald_rt.eventlog.nats.jet import Got, Jet
from archibald_rt.eventlog.nats.marks import Mark, Marks
from archibald_rt.eventlog.nats.opening import open_nats
from archibald_rt.revocations import UserRevocation
from engines import appended, emission, page
from natsservers import NatsServer, nats_server
from support import eventually, silenced


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@asynccontextmanager
async def alone(server: NatsServer) -> AsyncIterator[Marks]:
    """Make marks that are told by hand what comes."""
    connection = await client.connect(server.url)
    made = Marks(
        Jet(connection), "B", "b.", "own", lapsed=_nothing, renewed=_nothing, watched=_nothing
    )
    try:
        yield made
    finally:
        await connection.close()


def _nothing(*_: object) -> None:
    """Do nothing."""


def own_mark(of: Marks, count: int) -> Got:
    mark = Mark("own", count, watched=False, gone=False)
    return Got(count, f"b.server.{of.id}", msgspec.json.encode(mark))


def names(log: NatsLog) -> list[str]:
    return sorted(each.mark.name for each in log._marks.others.values())  # noqa: SLF001 - no answer says it alone


async def directly(step: Step) -> int:
    return await step()


def answering(log: NatsLog, answer: bytes | None) -> list[bytes]:
    """Have a log answer what it is asked; returns where the questions will be."""
    asked: list[bytes] = []

    def answered(question: bytes) -> bytes | None:
        asked.append(question)
        return answer

    hooks = {each: getattr(UNHEARD, each) for each in UNHEARD.__struct_fields__}
    log.peers.attach(type(UNHEARD)(**{**hooks, "asked": answered}))
    return asked


# Leases


@pytest.mark.gen_test
async def test_a_lease_counts_from_when_the_mark_was_sent_and_ends(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(marks, "clock", lambda: now)
    async with alone(server) as own:
        await own._store()  # noqa: SLF001 - else it would be renewed
        found = [own.current]
        now = 1000.0 + marks.LEASE - 1
        own.hear(own_mark(own, 1))
        found.append(own.current)
        now = 1000.0 + marks.LEASE
        found.append(own.current)
        # One that was not sent from here, or long ago, is none.
        own.hear(own_mark(own, 1))
        own.hear(own_mark(own, 77))
        found.append(own.current)
        assert found == [False, True, False, False]


@pytest.mark.gen_test
async def test_a_mark_counts_only_when_all_that_was_stored_by_then_has_come(
    server: NatsServer,
) -> None:
    async with alone(server) as own:
        await own._store()  # noqa: SLF001 - else it would be renewed
        own.pending = 1
        own.hear(own_mark(own, 1))
        found = [own.current]
        own.pending = 0
        own.hear(Got(2, "b.revoked.user.u", b"1"))
        assert [*found, own.current] == [False, True]


@pytest.mark.gen_test
async def test_who_has_no_lease_serves_nobody_until_a_mark_comes_back(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # None but those that are asked for.
    monkeypatch.setattr(marks, "RENEW", 3600.0)
    async with (
        open_nats([server.url], tmp_path.name) as log,
        open_nats([server.url], tmp_path.name) as other,
    ):
        arrived: list[bool] = []
        doubts: list[object] = []
        hooks = {each: getattr(UNHEARD, each) for each in UNHEARD.__struct_fields__}
        hooks |= {
            "arrived": lambda: arrived.append(log.peers.current),
            "doubted": doubts.append,
        }
        log.peers.attach(type(UNHEARD)(**hooks))
        await appended(other, [[emission()]])
        await eventually(lambda: log.head == 1)
        found = [log.peers.current]
        # As if it had been halted for so long.
        monkeypatch.setattr(marks, "clock", lambda before=marks.clock: before() + 1000)
        found.append(log.peers.current)
        with pytest.raises(LogUnavailableError, match="revoked lately"):
            await log.probe()
        monkeypatch.setattr(marks, "ANSWER_WITHIN", 0.0)
        with pytest.raises(LogUnavailableError, match="revoked lately"):
            await page(log)
        # What has arrived is not taken, and nobody waits for more.
        assert (log.peers.waiting, log.peers.take()) == (False, None)
        assert [each async for each in log.peers.through(1)] == []
        arrived.clear()
        with silenced("archibald_rt.eventlog.nats"):
            log._marks.renew()  # noqa: SLF001 - as if it were its turn
            await eventually(lambda: log.peers.current)
        assert [*found, *arrived] == [True, False, True]
        assert any("revoked lately" in str(each) for each in doubts)
        taken = log.peers.take()
        assert taken is not None
        assert taken.seq == 1
        assert len((await page(log)).events) == 1


# Who is there


@pytest.mark.gen_test
async def test_servers_know_one_another_by_name_and_forget_who_ended(
    server: NatsServer, tmp_path: Path
) -> None:
    async with open_nats([server.url], tmp_path.name, name="a") as first:
        async with open_nats([server.url], tmp_path.name, name="b") as second:
            await first.peers.meet()
            assert (names(first), names(second)) == (["b"], ["a"])
            # Two of one name are two.
            async with open_nats([server.url], tmp_path.name, name="b"):
                await first.peers.meet()
                assert names(first) == ["b", "b"]
        await first.peers.meet()
        assert names(first) == []


@pytest.mark.gen_test
async def test_what_is_left_of_a_server_that_was_killed_is_taken_away(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, subject = f"KV_{tmp_path.name}_state", f"$KV.{tmp_path.name}_state.server.dead"
    mark = msgspec.json.encode(Mark("dead", 1, watched=True, gone=False))
    async with open_nats([server.url], tmp_path.name, name="a") as log:
        jet = log._jet  # noqa: SLF001 - its connection is as good as another
        await jet.connection.publish(subject, mark)
        await log.peers.meet()
        assert names(log) == ["dead"]
        monkeypatch.setattr(marks, "KEPT", 0.0)

        async def gone() -> bool:
            log.peers._marks.renew()  # noqa: SLF001 - else it is seconds later
            return await jet.last(bucket, subject) is None

        await eventually(gone)
        await eventually(lambda: names(log) == [])
        assert log.peers.current


@pytest.mark.gen_test
async def test_what_is_no_mark_is_none(server: NatsServer, tmp_path: Path) -> None:
    async with open_nats([server.url], tmp_path.name, name="a") as log:
        subject = f"$KV.{tmp_path.name}_state.server.x"
        await log._jet.connection.publish(subject, b"no mark")  # noqa: SLF001 - as above
        await log.peers.meet()
        assert (names(log), log.peers.current) == ([], True)


# Asking


@pytest.mark.gen_test
async def test_all_others_are_asked_and_none_is_waited_for_that_has_answered(
    server: NatsServer, tmp_path: Path
) -> None:
    async with (
        open_nats([server.url], tmp_path.name, name="a") as first,
        open_nats([server.url], tmp_path.name, name="b") as second,
        open_nats([server.url], tmp_path.name, name="c") as third,
    ):
        questions = [answering(each, name) for each, name in ((second, b"B"), (third, b"C"))]
        own = answering(first, b"A")
        await first.peers.meet()
        answers = await first.peers.ask(b"what", None)
        assert sorted(answers.given) == [b"B", b"C"]
        assert (answers.silent, answers.gone) == ([], [])
        assert questions == [[b"what"], [b"what"]]
        assert own == []


@pytest.mark.gen_test
async def test_who_does_not_answer_is_asked_again_and_named(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "AGAIN", 0.01)
    async with (
        open_nats([server.url], tmp_path.name, name="a") as first,
        open_nats([server.url], tmp_path.name, name="b") as second,
        open_nats([server.url], tmp_path.name, name="c") as third,
    ):
        asked = answering(second, None)
        answering(third, b"C")
        await first.peers.meet()
        waiting = asyncio.ensure_future(first.peers.ask(b"what", None))
        await eventually(lambda: len(asked) > 3)
        # It is waited for no longer than it may serve.
        later = marks.clock() + marks.LEASE + marks.DRIFT
        for module in (marks, asking):
            monkeypatch.setattr(module, "clock", lambda: later)
        answers = await waiting
        assert (answers.given, answers.silent) == ([b"C"], ["b"])


# Revocations


@pytest.mark.gen_test
async def test_a_revocation_whose_answer_is_lost_is_in_force_here_as_elsewhere(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_nats([server.url], tmp_path.name) as log:
        heard: list[object] = []
        hooks = {each: getattr(UNHEARD, each) for each in UNHEARD.__struct_fields__}
        log.peers.attach(type(UNHEARD)(**{**hooks, "revoked": heard.append}))
        store = log._jet.store  # noqa: SLF001 - its answer is to be lost

        async def lose(*args: Any, **options: Any) -> int:
            seq = await store(*args, **options)
            await log._changes.reached(seq)  # noqa: SLF001 - it comes before the answer would
            raise LogUncertainError("the answer was lost")

        monkeypatch.setattr(log._jet, "store", lose)  # noqa: SLF001 - as above
        revocation = UserRevocation("u", 5)
        with pytest.raises(LogUncertainError):
            await log.revoke(revocation, directly)
        assert heard == [revocation]
        monkeypatch.undo()
        await log.revoke(revocation, directly)
        assert list(await log.revocations()) == [revocation]


@pytest.mark.gen_test
async def test_a_revocation_that_does_not_come_back_is_uncertain(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_nats([server.url], tmp_path.name) as log:

        async def never(_: int) -> None:
            raise LogUnavailableError("it did not come")

        monkeypatch.setattr(log._changes, "reached", never)  # noqa: SLF001 - nothing else holds it up
        with pytest.raises(LogUncertainError, match="did not come"):
            await log.revoke(UserRevocation("u", 5), directly)
