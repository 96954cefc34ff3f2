"""The end of a server: nothing new is taken, what was accepted is finished, devices go home."""

import asyncio
import random
from collections.abc import Sequence

from archibald_rt.errors import CloseCode
from archibald_rt.http1.listener import Listener
from archibald_rt.order import OrderQueue
from archibald_rt.reception import Device, Reception
from archibald_rt.tap import Tap

RECONNECT_WITHIN = 5.0
"""Within how many seconds after the close the devices of a draining server come back."""

LONGEST_STEP = 0.25
"""How many seconds at most lie between two closes of a drain; a handful is closed soon."""

SHORTEST_STEP = 0.01
"""How many seconds at least lie between two turns of closing; of many, several go in one."""

LONGEST_GOODBYE = 1.0
"""For how many seconds at most requests still to come are answered, and closes waited for."""


async def drain(
    reception: Reception,
    order: OrderQueue,
    tap: Tap,
    listeners: Sequence[Listener],
    *,
    seconds: float,
    spread: bool,
) -> None:
    """Take nothing new, finish what was accepted, and part from the devices in order.

    Devices are closed one after the other, with ``spread`` over most of the ``seconds``, so
    that they don't all come back at once; those that are behind are not waited for. What
    clients had begun to ask is answered, and every answer ends its connection: one that was
    accepted and not yet read is not lost.
    """
    reception.draining = True
    for listener in listeners:
        listener.stop()
    await order.close()
    devices = reception.devices
    for device in devices:
        device.tell_to_reconnect(round(random.uniform(0, RECONNECT_WITHIN) * 1000))  # noqa: S311 - spreading a herd needs no secret
    await close_over(min(seconds * 0.8, len(devices) * LONGEST_STEP) if spread else 0.0, devices)
    # Those who watch have seen them go.
    tap.close()
    goodbye = min(seconds * 0.2, LONGEST_GOODBYE)
    await asyncio.gather(*(listener.over(goodbye) for listener in listeners))
    await reception.connections.over(goodbye)


async def close_over(span: float, devices: Sequence[Device]) -> None:
    """Close devices evenly over so many seconds, by the clock: a sleep is never exact."""
    loop = asyncio.get_running_loop()
    began, closed = loop.time(), 0
    while closed < len(devices):
        passed = (loop.time() - began) / span if span else 1.0
        due = min(len(devices), int(passed * len(devices)) + 1)
        for device in devices[closed:due]:
            device.end(CloseCode.GOING_AWAY, "Server going away")
        closed = due
        await asyncio.sleep(max(span / len(devices), SHORTEST_STEP) if span else 0)
