"""A device that falls behind and turns live again, many times, with events of all kinds."""

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

from archibald_rt.held import LIMIT
from faults.backends import Account, BackEnd
from faults.connections import connect
from faults.devices import Place
from faults.report import Report, times
from faults.served import served
from support import eventually, token

ROUNDS = times(30)
USER = "slow"
PAD = 4000
"""How many bytes of padding a durable event has, so that few fill what the kernel takes."""

KEYS = ("a", "b")


class Script:
    """What is emitted, in order: the number of each emission, and what it was."""

    def __init__(self, chance: random.Random) -> None:
        self.kinds: list[str | None] = []
        """By number: ``durable``, None for a transient event, else its conflate key."""
        self._chance = chance

    def next(self, kind: str | None = "any", pad: int = 0) -> dict[str, Any]:
        """Return the next emission; ``any`` is one of the kinds."""
        if kind == "any":
            kind = self._chance.choice(["durable", "durable", None, *KEYS])
        number = len(self.kinds)
        self.kinds.append(kind)
        durable = kind == "durable"
        payload = {"n": number, "pad": "x" * (PAD if durable else pad)}
        emission = {"userId": USER, "type": "E", "durable": durable, "payload": payload}
        return emission if durable or kind is None else emission | {"conflate": kind}

    def last(self, kind: str) -> int:
        """Return the number of the last emission of a kind."""
        return max(number for number, each in enumerate(self.kinds) if each == kind)


class Order(Place):
    """A device's place that keeps the numbers of all events, in the order in which they came."""

    def __init__(self, user: str) -> None:
        super().__init__(user, None)
        self.numbers: list[int] = []

    def take(self, text: bytes) -> None:
        super().take(text)
        message = json.loads(text)
        if not message["type"].startswith("rt."):
            self.numbers.append(message["payload"]["n"])


@pytest.mark.fault("a device falls behind and catches up")
@pytest.mark.gen_test(timeout=240 + 5 * ROUNDS)
async def test_a_device_that_falls_behind_again_and_again_gets_everything_in_its_place(
    tmp_path: Path, report: Report
) -> None:
    chance = random.Random(5)  # noqa: S311 - emissions that can be repeated, no secret
    script, order, account = Script(chance), Order(USER), Account()
    newest: set[int] = set()
    async with (
        served(tmp_path, {"delivery.max_outbox": "16KiB"}) as (service, _),
        BackEnd(service.internal_url) as back_end,
    ):

        async def emit(count: int, kind: str | None = "any") -> None:
            batch = [script.next(kind) for _ in range(count)]
            account.note([USER] * count, await back_end.emit(batch))

        async def state() -> str:
            (session,) = (await back_end.get("/internal/connections"))["connections"]
            return str(session["state"])

        async def live() -> bool:
            return await state() == "live"

        connection = await connect(
            service.public_url, {"token": token(USER)}, order.take, buffer=4096
        )
        await eventually(lambda: order.live)
        for _ in range(ROUNDS):
            connection.pause()
            while await live():
                await emit(chance.choice([1, 5, 20]))
            # It is behind: these are held, the durable ones are in the log.
            for _ in range(chance.randrange(10)):
                await emit(chance.choice([1, 5]))
            for key in KEYS:
                await emit(1, key)
            connection.resume()
            # While it catches up more come, of which some find it live.
            for _ in range(chance.randrange(10)):
                await emit(1)
            # Nothing newer takes the place of these any more.
            newest.update(script.last(key) for key in KEYS)
            await eventually(live)
        await emit(1, "durable")
        await eventually(lambda: order.seqs[-1] == account.answered[USER][-1])
        dropped = (await back_end.get("/internal/stats"))["events"]["dropped"]
        connection.drop()
        await connection.closed
    got = set(order.numbers)
    missing = set(range(len(script.kinds))) - got
    assert order.welcomes == 1, "it was ended"
    assert all(a < b for a, b in itertools.pairwise(order.numbers)), "out of order"
    assert dropped == 0
    # Held transient events are few enough to be kept: only newer ones of their key replace any.
    replaced = [number for number in missing if script.kinds[number] in KEYS]
    assert replaced, "nothing was conflated"
    report.note(
        "a device falls behind and catches up",
        how="a device stops reading until it is behind, then reads until it is live; durable, "
        "transient and conflated events are emitted all the time (`max_outbox` 16 KiB)",
        tried=f"{ROUNDS} times, {len(script.kinds)} events",
        checked="one order for all kinds, as emitted; every durable event once; every transient "
        "one, unless a newer one of its key took its place while it waited",
        lost=account.lost(service.log, [order]) + len(missing) - len(replaced) + len(newest - got),
        figures=f"{account.count} durable; {len(replaced)} of "
        f"{sum(kind in KEYS for kind in script.kinds)} conflated events were replaced",
    )


@pytest.mark.fault("more transient events than are held")
@pytest.mark.gen_test(timeout=240 + 5 * ROUNDS)
async def test_a_device_that_is_behind_gets_the_newest_transient_events_and_the_rest_is_counted(
    tmp_path: Path, report: Report
) -> None:
    many, size, rounds = 100, 2000, times(3)
    script, order, account = Script(random.Random(6)), Order(USER), Account()  # noqa: S311 - as above
    kept: list[int] = []
    wrong = 0
    async with (
        served(tmp_path, {"delivery.max_outbox": "16KiB"}) as (service, _),
        BackEnd(service.internal_url) as back_end,
    ):

        async def emit(kind: str | None) -> int:
            account.note([USER], await back_end.emit(script.next(kind, size)))
            return len(script.kinds) - 1

        async def live() -> bool:
            (session,) = (await back_end.get("/internal/connections"))["connections"]
            return bool(session["state"] == "live")

        connection = await connect(
            service.public_url, {"token": token(USER)}, order.take, buffer=4096
        )
        await eventually(lambda: order.live)
        for _ in range(rounds):
            connection.pause()
            while await live():
                await emit("durable")
            emitted = [await emit(None if n % 10 else "durable") for n in range(many)]
            connection.resume()
            await eventually(live)
            await emit("durable")
            await eventually(lambda: order.seqs[-1] == account.answered[USER][-1])
            transient = [number for number in emitted if script.kinds[number] is None]
            got = [number for number in transient if number in order.numbers]
            # The newest, without a hole.
            wrong += got != transient[-len(got) :]
            kept.append(len(got))
        dropped = (await back_end.get("/internal/stats"))["events"]["dropped"]
        connection.drop()
        await connection.closed
    assert all(a < b for a, b in itertools.pairwise(order.numbers)), "out of order"
    assert all(LIMIT // 2 < count * size <= LIMIT for count in kept)
    unaccounted = script.kinds.count(None) - sum(kept) - dropped
    report.note(
        "more transient events than are held",
        how=f"{many - many // 10} transient events of 2 KB come while a device is behind",
        tried=f"{rounds} times",
        checked="the newest 64 KiB of them arrive, in their place; the rest is counted as "
        "dropped; every durable event arrives",
        lost=account.lost(service.log, [order]) + wrong + abs(unaccounted),
        figures=f"{sum(kept)} arrived, {dropped} were dropped",
    )
