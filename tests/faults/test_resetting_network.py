"""A network that resets connections at random places: in a handshake, in a frame, in a request."""

import random
from pathlib import Path

import pytest

from faults.audit import audit, lost
from faults.emitters import NO_ANSWER
from faults.load import load
from faults.proxy import Proxy, proxied
from faults.report import Report, times
from faults.service import Service
from support import eventually

RESETS = times(1000)
"""How many connections of devices are reset."""

HANDSHAKE = 400
"""How many bytes a device sends until its handshake is done, about."""


class Detour(Service):
    """A service that devices and back ends reach through proxies, once it has them."""

    outer: Proxy | None = None
    inner: Proxy | None = None

    @property
    def public_url(self) -> str:
        return super().public_url if self.outer is None else self.outer.url

    @property
    def internal_url(self) -> str:
        return super().internal_url if self.inner is None else self.inner.url


@pytest.mark.fault("network resets connections")
@pytest.mark.gen_test(timeout=240 + RESETS)
async def test_what_was_answered_reaches_every_device_once_though_connections_are_reset(
    tmp_path: Path, report: Report
) -> None:
    chance = random.Random(20260131)  # noqa: S311 - resets that can be repeated, no secret

    def about(count: int) -> int:
        return int(chance.expovariate(1 / count))

    async with (
        Detour(tmp_path) as service,
        proxied(service.public_url) as outer,
        proxied(service.internal_url) as inner,
    ):
        await service.start()
        service.outer, service.inner = outer, inner
        async with load(service, users=10, devices_each=3, unrest=False) as work:
            # Devices say little after their handshake, back ends hear little.
            outer.reset_after(up=lambda: about(2 * HANDSHAKE), down=lambda: about(40_000))
            inner.reset_after(up=lambda: about(60_000), down=lambda: about(3000))
            await eventually(lambda: outer.resets >= RESETS, within=30 + RESETS)
            reset, requests = outer.resets, inner.resets
            outer.reset_after()
            inner.reset_after()
            await work.finish()
    unanswered = sum(each.unanswered for each in work.watchers)
    partial = sum(each.partial for each in work.watchers)
    assert unanswered
    assert partial
    assert work.statuses[NO_ANSWER]
    duplicates = sum(each.duplicates for each in work.emitters)
    assert duplicates
    report.note(
        "network resets connections",
        how="a proxy sends both sides a RST after a random number of bytes, before devices "
        "and before back ends",
        tried=f"{reset} connections of {len(work.watchers)} devices ({unanswered} within the "
        f"handshake, {partial} within a frame), {requests} of {len(work.emitters)} back ends",
        checked="devices resume by cursor: every event once, in order, `prev` unbroken; back "
        "ends try again by key: one event for each key, whole batches",
        lost=lost(audit(service.log, work)),
        figures=f"{work.answered} events; {work.statuses[NO_ANSWER]} requests without an answer, "
        f"{duplicates} events had been stored before the second try",
    )
