"""One device that reads Server-Sent Events: how it ends, and the comments that keep it open."""

import random

from archibald_rt.device import ConnectedDevice
from archibald_rt.drain import RECONNECT_WITHIN
from archibald_rt.errors import CloseCode
from archibald_rt.eventstream import EventStream
from archibald_rt.reception import Reception
from archibald_rt.sse import COMMENT, Sse
from archibald_rt.websocket import ABNORMAL

COMMENT_EVERY = 15.0
"""How many seconds lie between two comments; proxies end what is silent for longer, most at 60."""

GONE_AFTER = 2
"""For how many times `stall_timeout` the kernel waits for a device to acknowledge something.

Longer than a stall takes to be noticed, whose end may still be told.
"""

LATER = (5.0, 15.0)
"""Between how many seconds a device comes back that is told to try again later.

A browser's `EventSource` always waits equally long and never longer, so it can't back off.
"""

MUCH_LATER = 3600.0
"""After how many seconds one comes back that had to make room, and is not to at all.

An `EventSource` always does, in place of another device that does then, and so on.
"""


class StreamDevice(ConnectedDevice):
    """Owns a stream from its head on."""

    __slots__ = ("_code",)

    _connection: EventStream
    _dialect: Sse

    def __init__(
        self, stream: EventStream, reception: Reception, dialect: Sse, address: str | None = None
    ) -> None:
        super().__init__(stream, reception, dialect, address)
        self._code = ABNORMAL

    @property
    def heartbeat(self) -> float:
        """How many seconds lie between two comments."""
        return COMMENT_EVERY

    @property
    def code(self) -> int:
        """The code of the last event; 1006 where the client went first."""
        return self._code

    def beat(self) -> None:
        """Write a comment, unless something waits to be read that shows as much.

        There is no answer to it. A device that is gone acknowledges none, for which the kernel
        ends the connection in time (``gone_after``).
        """
        if self._session is not None and not self._connection.outbox.size:
            self._connection.outbox.push(COMMENT)

    def on_end(self) -> None:
        """Take the device out."""
        self._gone()

    def _close(self, code: int, reason: str) -> None:
        self._note(code)
        self._connection.finish(self._last(code, reason))

    def _cut_off(self, code: int, reason: str) -> None:
        self._note(code)
        self._connection.cut_off(self._last(code, reason))

    def _note(self, code: int) -> None:
        if not self._connection.told:
            self._code = int(code)

    def _last(self, code: int, reason: str) -> bytes:
        return self._dialect.close(code, reason, retry=self._retry(code))

    def _retry(self, code: int) -> int | None:
        """Return when to come back, in milliseconds; None where that was said before."""
        if code == CloseCode.TOO_MANY_DEVICES:
            return round(MUCH_LATER * 1000)
        if code == CloseCode.TRY_AGAIN_LATER:
            return round(random.uniform(*LATER) * 1000)  # noqa: S311 - spreading a herd needs no secret
        if code == CloseCode.GOING_AWAY and self._session is None:
            return round(random.uniform(0, RECONNECT_WITHIN) * 1000)  # noqa: S311 - as above
        return None
