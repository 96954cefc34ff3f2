"""Losses are told exactly, in every shape that retention and erasure can give a stream."""

import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tornado.ioloop import IOLoop

from archibald_rt.events import Cursor
from engines import Engine
from eventstreams import Listening, listen
from support import Device, Harness, eventually, harness

OWN, EVERYBODY = "ann", "*"


class Stream:
    """What was emitted to one user and to everybody, in a log that keeps so many of each."""

    def __init__(
        self,
        at: Harness,
        epoch: str,
        keep: int,
        engine: Engine,
        again: Callable[[], Awaitable[Harness]],
    ) -> None:
        self._at = at
        self._epoch = epoch
        self._keep = keep
        self._engine = engine
        self._again = again
        self.owners: list[str] = []

    async def emit(self, owners: Sequence[str]) -> None:
        """Emit an event for each owner, and wait until the log is pruned."""
        for owner in owners:
            self.owners.append(owner)
            event = {"type": "N", "payload": len(self.owners), "durable": True}
            if owner == EVERYBODY:
                await self._at.emit(event, "broadcast")
            else:
                await self._at.emit({"userId": owner, **event})
        if self._engine.exact:
            await eventually(lambda: self._in_file() == sorted(self.kept(*set(self.owners))))
        else:
            # What was just dispatched is at hand, however much of it is gone.
            self._at = await self._again()

    def kept(self, *owners: str) -> list[int]:
        """Return the seqs that are left of these owners' events."""
        return [seq for owner in owners for seq in self._seqs(owner)[-self._keep :]]

    def of(self, user: str) -> list[int]:
        """Return what is left of a user's stream, by seq."""
        return sorted(self.kept(user, EVERYBODY))

    def lost(self, user: str, after: int) -> int | None:
        """Return the last seq that is gone from a user's stream after a place, if any is."""
        gone = [
            seq
            for owner in (user, EVERYBODY)
            for seq in self._seqs(owner)[: -self._keep]
            if seq > after
        ]
        if not self._engine.exact:
            spare = self._keep + self._engine.spare
            begin = min(self._seqs(owner)[-spare:][0] for owner in set(self.owners))
            # What went before all that there is left no trace of whose it was.
            gone += [begin - 1] if begin - 1 > after else []
        return max(gone, default=None)

    def cursor(self, seq: int) -> str:
        return str(Cursor(self._epoch, seq))

    async def resume(self, user: str, after: int) -> list[tuple[str, Any]]:
        """Connect after a seq; return what is told until the device is live."""
        async with await self._at.connect(user, lastEventId=self.cursor(after)) as device:
            found = await told(device)
        async with await listen(self._at, user, lastEventId=self.cursor(after)) as listening:
            assert await told(listening) == found
        return found

    def expected(self, user: str, after: int) -> list[tuple[str, Any]]:
        """Return what a device that resumes after a seq is to be told."""
        events: list[tuple[str, Any]] = [("N", seq) for seq in self.of(user) if seq > after]
        lost = self.lost(user, after)
        if lost is None:
            return events
        return [("rt.gap", (self.cursor(after), self.cursor(lost), "expired")), *events]

    def _seqs(self, owner: str) -> list[int]:
        return [seq for seq, each in enumerate(self.owners, 1) if each == owner]

    def _in_file(self) -> list[int]:
        with closing(sqlite3.connect(self._at.settings.log.path)) as connection:
            rows = connection.execute("SELECT seq FROM events ORDER BY seq")
            return [seq for (seq,) in rows]


async def told(device: Device | Listening) -> list[tuple[str, Any]]:
    """Return what a device is told between its welcome and `rt.live`."""
    found: list[tuple[str, Any]] = []
    assert (await device.next())["type"] == "rt.welcome"
    while (message := await device.next())["type"] != "rt.live":
        payload = message["payload"]
        if message["type"] == "rt.gap":
            payload = (payload["requested"], payload["missingThrough"], payload["reason"])
        found.append((message["type"], payload))
    return found


@asynccontextmanager
async def stream(folder: Path, engine: Engine, *, keep: int) -> AsyncIterator[Stream]:
    settings = {"log.prune_every": "20ms", "log.max_events_per_user": str(keep)}
    async with AsyncExitStack() as stack:

        async def again() -> Harness:
            await stack.aclose()
            return await stack.enter_async_context(harness(folder, settings))

        at = await again()
        epoch = (await at.stats())["log"]["epoch"]
        yield Stream(at, epoch, keep, engine, again)


@pytest.mark.gen_test
async def test_one_event_missing_at_the_front_is_told(tmp_path: Path, engine: Engine) -> None:
    async with stream(tmp_path, engine, keep=2) as made:
        await made.emit([OWN] * 3)
        gap = ("rt.gap", (made.cursor(0), made.cursor(1), "expired"))
        assert await made.resume(OWN, 0) == [gap, ("N", 2), ("N", 3)]
        assert await made.resume(OWN, 1) == [("N", 2), ("N", 3)]


@pytest.mark.gen_test
async def test_broadcasts_that_are_left_between_own_events_that_are_gone_hide_no_loss(
    tmp_path: Path, engine: Engine
) -> None:
    async with stream(tmp_path, engine, keep=2) as made:
        await made.emit([OWN, EVERYBODY, OWN, EVERYBODY, OWN, OWN])
        # 1 and 3 are gone, the broadcasts 2 and 4 are there.
        gap = ("rt.gap", (made.cursor(2), made.cursor(3), "expired"))
        assert await made.resume(OWN, 2) == [gap, ("N", 4), ("N", 5), ("N", 6)]
        assert await made.resume(OWN, 3) == [("N", 4), ("N", 5), ("N", 6)]


@pytest.mark.gen_test
async def test_own_events_that_are_left_between_broadcasts_that_are_gone_hide_no_loss(
    tmp_path: Path, engine: Engine
) -> None:
    async with stream(tmp_path, engine, keep=2) as made:
        await made.emit([EVERYBODY, OWN, EVERYBODY, OWN, EVERYBODY, EVERYBODY])
        gap = ("rt.gap", (made.cursor(2), made.cursor(3), "expired"))
        assert await made.resume(OWN, 2) == [gap, ("N", 4), ("N", 5), ("N", 6)]
        # Who never got an event of its own has lost the broadcasts all the same.
        gap = ("rt.gap", (made.cursor(0), made.cursor(3), "expired"))
        assert await made.resume("quiet", 0) == [gap, ("N", 5), ("N", 6)]


@pytest.mark.gen_test
async def test_a_quiet_user_is_never_told_of_a_loss_that_is_not_its_own(
    tmp_path: Path, engine: Engine
) -> None:
    async with stream(tmp_path, engine, keep=1) as made:
        await made.emit(["quiet", *["busy"] * 20])
        assert await made.resume("quiet", 0) == [("N", 1)]
        assert await made.resume("stranger", 0) == []
        gap = ("rt.gap", (made.cursor(0), made.cursor(20), "expired"))
        assert await made.resume("busy", 0) == [gap, ("N", 21)]


@pytest.mark.sqlite("lets all events be too old at once")
@pytest.mark.gen_test
async def test_a_whole_stream_that_is_gone_is_told_and_then_the_device_is_live(
    tmp_path: Path,
) -> None:
    settings = {"log.prune_every": "20ms", "log.max_age": "1ms"}
    async with harness(tmp_path, settings) as at:
        answer = await at.emit([{"userId": OWN, "type": "N"}] * 3)

        async def pruned() -> bool:
            return bool((await at.stats())["log"]["pruned"] == 3)

        await eventually(pruned)
        last = answer["results"][-1]["id"]
        start = last.split(":")[0] + ":0"
        async with await at.connect(OWN, lastEventId=start) as device:
            assert await told(device) == [("rt.gap", (start, last, "expired"))]
            await at.emit({"userId": OWN, "type": "LATER"})
            assert (await device.until("LATER"))["prev"] == start


@pytest.mark.gen_test
async def test_a_reconnect_in_the_middle_of_a_gap_is_told_it_until_it_has_passed(
    tmp_path: Path, engine: Engine
) -> None:
    async with stream(tmp_path, engine, keep=2) as made:
        await made.emit([OWN, EVERYBODY, OWN, EVERYBODY, OWN, OWN])
        # Told and then cut off: its cursor is the old one, so it is told again.
        assert await made.resume(OWN, 0) == await made.resume(OWN, 0) == made.expected(OWN, 0)
        # Got the first event after it, before the end of the loss: the rest is still a loss.
        assert await made.resume(OWN, 2) == made.expected(OWN, 2)
        assert await made.resume(OWN, 4) == [("N", 5), ("N", 6)]


@given(
    owners=st.lists(st.sampled_from([OWN, OWN, EVERYBODY, "bob"]), min_size=1, max_size=12),
    keep=st.integers(1, 3),
)
@settings(
    max_examples=15,
    # Each example has a log of its own, by whichever engine it is.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_whatever_is_left_each_place_in_it_is_told_just_what_it_lost(
    tmp_path_factory: pytest.TempPathFactory, engine: Engine, owners: list[str], keep: int
) -> None:
    async def check() -> None:
        async with stream(tmp_path_factory.mktemp("log"), engine, keep=keep) as made:
            await made.emit(owners)
            for user in (OWN, "bob", "stranger"):
                for after in range(len(owners) + 1):
                    assert await made.resume(user, after) == made.expected(user, after)

    io_loop = IOLoop(make_current=False)
    io_loop.run_sync(check)
    io_loop.close(all_fds=True)


@pytest.mark.sqlite("waits for what is left in the file")
@pytest.mark.gen_test
async def test_a_device_that_is_pruned_past_while_it_is_behind_is_told_before_what_is_left(
    tmp_path: Path,
) -> None:
    settings = {
        "log.prune_every": "20ms",
        "log.max_events_per_user": "50",
        "delivery.max_outbox": "16KiB",
        "delivery.replay_page": "10",
    }
    async with harness(tmp_path, settings) as at:
        async with await at.connect(OWN) as device:
            await device.until("rt.live")
            # Far more than the kernel holds: it falls behind, and is pruned past.
            filler = "x" * 30_000
            ids: list[str] = []
            for _ in range(40):
                batch = [{"userId": OWN, "type": "N", "payload": filler}] * 10
                ids += [each["id"] for each in (await at.emit(batch))["results"]]

            def in_file() -> int:
                with closing(sqlite3.connect(at.settings.log.path)) as connection:
                    (count,) = connection.execute("SELECT count(*) FROM events").fetchone()
                return int(count)

            await eventually(lambda: in_file() == 50)
            got: list[str] = []
            gaps: list[tuple[int, int]] = []
            while not got or got[-1] != ids[-1]:
                message = json.loads(await device.text() or "null")
                if message["type"] == "rt.gap":
                    ends = message["payload"]["requested"], message["payload"]["missingThrough"]
                    gaps.append((seq_of(ends[0]), seq_of(ends[1])))
                else:
                    assert message["prev"] == (got[-1] if got else message["prev"])
                    got.append(message["id"])
    seqs = [seq_of(each) for each in got]
    assert seqs == sorted(set(seqs))
    assert gaps, "it never fell behind"
    missing = [seq for seq in range(1, len(ids) + 1) if seq not in set(seqs)]
    # All that is missing lies in a gap that was told, and each gap ends at something missing.
    assert all(any(start < seq <= end for start, end in gaps) for seq in missing)
    assert {end for _, end in gaps} <= set(missing)


def seq_of(cursor: str) -> int:
    return int(cursor.partition(":")[2])
