"""Devices that come back by their cursor and check what they are told of their place."""

import asyncio
from collections import Counter
from collections.abc import Callable

import msgspec

from faults.connections import ABNORMAL, Connection, connect
from support import token

PAUSE = 0.05
"""For how many seconds a device that was refused or cut off waits before it comes back."""


class Message(msgspec.Struct, gc=False):
    """What a device is told; the payload as it was written."""

    type: str
    payload: msgspec.Raw
    timestamp: str
    id: str | None = None
    prev: str | None = None


read_message = msgspec.json.Decoder(Message).decode


def seq_of(cursor: str) -> int:
    """Return the place of a cursor in its log."""
    return int(cursor.rpartition(":")[2])


class Place:
    """Where a device stands in its user's stream, and what is wrong with what it was told.

    ``cursor`` is where it begins; None begins with what is live.
    """

    def __init__(self, user: str, cursor: str | None = "earliest") -> None:
        self.user = user
        self.cursor = cursor
        self.seqs: list[int] = []
        """The durable events it got, by their places in the log."""
        self.transient: list[bytes] = []
        """The payloads of the transient events it got."""
        self.faults: list[str] = []
        """What contradicts the promises."""
        self.gaps: list[tuple[str, str | None, str]] = []
        """The losses it was told: what it had, what is missing, and why."""
        self.replays: list[int] = []
        """How many events it was told were replayed, at each connection that turned live."""
        self.welcomes = 0
        self._last = 0

    @property
    def live(self) -> bool:
        """Whether the connection it has is live, as it was told."""
        return len(self.replays) == self.welcomes > 0

    def take(self, text: bytes) -> None:
        """Take what the device is told."""
        if text == b"pong":
            return
        message = read_message(text)
        if message.id is not None:
            self._take_durable(message.id, message.prev)
        elif message.type.startswith("rt."):
            self._take_control(message.type, msgspec.json.decode(message.payload))
        else:
            self.transient.append(bytes(message.payload))

    def _take_durable(self, cursor: str, prev: str | None) -> None:
        seq = seq_of(cursor)
        if prev != self.cursor:
            self.faults.append(f"{cursor} follows {prev}, the device had {self.cursor}")
        if seq <= self._last:
            self.faults.append(f"{cursor} came after {self._last}")
        self.cursor = cursor
        self._last = seq
        self.seqs.append(seq)

    def _take_control(self, kind: str, payload: dict[str, str]) -> None:
        if kind == "rt.welcome":
            if self.cursor not in {None, "earliest", payload["cursor"]}:
                self.faults.append(f"welcomed at {payload['cursor']}, asked for {self.cursor}")
            self.cursor = payload["cursor"]
            self.welcomes += 1
        elif kind == "rt.live":
            if payload["cursor"] != self.cursor:
                self.faults.append(f"live at {payload['cursor']}, the device has {self.cursor}")
            self.replays.append(int(payload["replayed"]))
        elif kind == "rt.gap":
            if payload["reason"] == "expired" and payload["requested"] != self.cursor:
                self.faults.append(f"a gap after {payload['requested']}, not {self.cursor}")
            self.gaps.append((payload["requested"], payload["missingThrough"], payload["reason"]))
        elif kind != "rt.reconnect":
            self.faults.append(f"told {kind}")


class Follower:
    """A device that comes back by its cursor whenever its connection ends, until `leave`.

    It connects to ``url()``, which may change. With ``silence`` (seconds) it gives up a
    connection on which nothing came for so long. It is connected by WebSocket, or with ``sse``
    by Server-Sent Events.
    """

    def __init__(
        self,
        url: Callable[[], str],
        user: str,
        *,
        cursor: str | None = "earliest",
        buffer: int | None = None,
        silence: float | None = None,
        sse: bool = False,
    ) -> None:
        self._sse = sse
        self.place = Place(user, cursor)
        self.codes: Counter[int] = Counter()
        """How its connections ended."""
        self.partial = 0
        """How many of them ended within a frame."""
        self.unanswered = 0
        """How many ended, or could not be made, before the handshake was answered."""
        self.connection: Connection | None = None
        self._url = url
        self._token = token(user)
        self._buffer = buffer
        self._silence = silence
        self._leaving = False
        self.free = asyncio.Event()
        """Whether it may connect; set at first."""
        self.free.set()

    async def follow(self) -> None:
        """Connect, and connect again, until told to leave."""
        while not self._leaving:
            await self.free.wait()
            try:
                await self._once()
            except OSError:
                self.unanswered += 1
            if not self._leaving:
                await asyncio.sleep(PAUSE)

    async def _once(self) -> None:
        query = {"token": self._token}
        if self.place.cursor is not None:
            query["lastEventId"] = self.place.cursor
        connection = self.connection = await connect(
            self._url(), query, self._take, buffer=self._buffer, sse=self._sse
        )
        try:
            if self._leaving:
                return
            code = await self._ended(connection)
            self.codes[code] += 1
            self.unanswered += not connection.upgraded
            self.partial += connection.partial and connection.upgraded
        finally:
            self.connection = None
            connection.drop()
            await connection.closed

    async def _ended(self, connection: Connection) -> int:
        loop = asyncio.get_running_loop()
        connection.heard = loop.time()
        while True:
            left = None
            if self._silence is not None:
                left = connection.heard + self._silence - loop.time()
                if left <= 0:
                    return ABNORMAL
            done, _ = await asyncio.wait([connection.closed], timeout=left)
            if done:
                return connection.closed.result()

    def _take(self, text: bytes) -> None:
        self.place.take(text)

    def leave(self) -> None:
        """Come back no more, and end the connection there is."""
        self._leaving = True
        if self.connection is not None:
            self.connection.drop()
