"""The sessions counted some at a time: ``census``."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from archibald_rt import census
from archibald_rt.census import take_census
from support import eventually, harness

if TYPE_CHECKING:
    from archibald_rt.hub import Hub


@pytest.mark.gen_test
async def test_what_was_sent_never_falls_though_devices_go_while_they_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(census, "SLICE", 1)
    async with harness(tmp_path) as at:
        hub: Hub = at.server._reception._hub  # type: ignore[attr-defined]  # noqa: SLF001 - what is counted
        users = [f"user-{number}" for number in range(6)]
        devices = [await at.connect(user) for user in users]
        for device in devices:
            await device.until("rt.live")
        await at.emit({"type": "NEWS", "durable": True}, "broadcast")
        before = await take_census(hub)
        assert (before.users, before.sent) == (6, 6)
        assert before.connections == {("v2", True): 6}
        counting = asyncio.ensure_future(take_census(hub))
        # It has begun, and waits behind its first slice.
        await asyncio.sleep(0)
        for session in list(hub.sessions())[:3]:
            hub.unregister(session)
        during = await counting
        assert during.sent == 6
        after = await take_census(hub)
        assert (after.users, after.sent) == (3, 6)
        await at.emit({"type": "NEWS", "durable": True}, "broadcast")
        assert (await take_census(hub)).sent == hub.sent == 9
        for device in devices:
            await device.close()
        await eventually(lambda: hub.connections == 0)
        assert (await take_census(hub)).sent == 9


@pytest.mark.gen_test
async def test_others_have_their_turn_while_many_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(census, "SLICE", 2)
    async with harness(tmp_path) as at:
        hub: Hub = at.server._reception._hub  # type: ignore[attr-defined]  # noqa: SLF001 - what is counted
        devices = [await at.connect(f"user-{number}") for number in range(5)]
        turns = 0
        counting = asyncio.ensure_future(take_census(hub))
        while not counting.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns >= 3
        assert sum(counting.result().connections.values()) == 5
        for device in devices:
            await device.close()
