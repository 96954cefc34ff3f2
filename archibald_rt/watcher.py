"""One who watches all traffic: what is sent to it, and what waits for it to take."""

import asyncio
import contextlib
import re
import time
from collections.abc import Callable, Sequence
from fnmatch import translate

import msgspec

from archibald_rt.messages import Close, CloseMessage
from archibald_rt.sse import event as sse
from archibald_rt.timestamps import from_epoch
from archibald_rt.traffic import Dropped, DroppedMessage

_encode = msgspec.json.encode


class Watcher:
    """One who watches; made by `Tap.watch`, and to be closed.

    It is sent what is of ``user`` (None: of anybody) and of a type that matches one of the
    shell-style ``patterns`` (none: of any type). ``admitted`` says whether it still may.
    """

    def __init__(
        self,
        user: str | None,
        patterns: Sequence[str],
        *,
        limit: int,
        admitted: Callable[[], bool],
        over: "Callable[[Watcher], None]",
    ) -> None:
        self._user = user
        joined = "|".join(translate(pattern) for pattern in patterns)
        self._pattern = re.compile(joined) if joined else None
        self._limit = limit
        self._over = over
        self._waiting: list[bytes] = []
        self.size = 0
        """How many bytes wait to be taken."""
        self.lost = 0
        """How many messages were given up since something was taken."""
        self._ended = False
        self._news = asyncio.Event()
        self._hurry = asyncio.Event()
        self.admitted = admitted

    @property
    def by_type(self) -> bool:
        """Whether the type decides what it is sent."""
        return self._pattern is not None

    def wants(self, user: str | None) -> bool:
        """Whether it is sent anything of this user; None is everybody."""
        return self._user is None or self._user == user

    def matches(self, event_type: str) -> bool:
        """Whether it is sent what is of this type."""
        return self._pattern is None or self._pattern.match(event_type) is not None

    @property
    def full(self) -> bool:
        """Whether it takes nothing more until all that waits was taken: so a loss has one place."""
        return self.size >= self._limit

    def put(self, message: bytes) -> None:
        """Have a message taken."""
        if not self._ended:
            self._waiting.append(message)
            self.size += len(message)
            self._news.set()
            if 2 * self.size > self._limit:
                self._hurry.set()

    def drop(self) -> None:
        """Count a message that is given up."""
        self.lost += 1

    async def take(self, within: float) -> bytes | None:
        """Return all that waits, as bytes of the stream; None at its end.

        Waits for so many seconds; then it is nothing (``b""``).
        """
        if not (self._waiting or self._ended):
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), within)
            except TimeoutError:
                return b""
        if not self._waiting:
            return None
        self._tell_loss()
        if not self._ended:
            self._hurry.clear()
        waiting, self._waiting, self.size = self._waiting, [], 0
        return b"".join(waiting)

    async def gather(self, seconds: float) -> None:
        """Let more come, for so many seconds or until there is much of it, or no more."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), seconds)

    def end(self, code: int, reason: str) -> None:
        """Have it end behind what waits, and say why. Doing it again does nothing."""
        if self._ended:
            return
        # Nothing follows the end.
        self._tell_loss()
        self.put(sse(_encode(CloseMessage(Close(code, reason), _now())), kind="rt.close"))
        self._stop()

    def close(self) -> None:
        """Watch no more, and give up what waits. Doing it again does nothing."""
        self._stop()
        self._waiting.clear()

    def _tell_loss(self) -> None:
        if self.lost:
            lost = DroppedMessage(Dropped(self.lost), _now())
            self.put(sse(_encode(lost), kind="rt.dropped"))
            self.lost = 0

    def _stop(self) -> None:
        self._ended = True
        self._hurry.set()
        self._news.set()
        self._over(self)


def _now() -> str:
    return from_epoch(time.time())
