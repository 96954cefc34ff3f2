"""Following a stream: every message of some subjects, once, in order, for as long as it takes.

An ordered consumer of our own. The client's starts at the first message of all when it is made
anew before it has had one, and tells nobody that the stream went on without it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from secrets import token_hex
from typing import TYPE_CHECKING

import nats.errors
from nats.aio.msg import Msg

from archibald_rt.errors import LogBrokenError, LogError, LogUnavailableError
from archibald_rt.eventlog.nats.jet import ANSWER_WITHIN, Got, Jet

if TYPE_CHECKING:
    from nats.aio.subscription import Subscription

HEARTBEAT = 1.0
"""Every how many seconds the server says that it is there, where nothing else comes."""

MISSED = 4
"""How many heartbeats may be missed before a consumer is made anew."""

RETRY = 0.25
"""After how many seconds it is tried again."""

_SHORT = 9
_NANOSECONDS = 1_000_000_000


class Follower:
    """Follows the messages of a stream after a seq; `start` it, and `close` it at the end.

    ``take`` is awaited with each of them, and ``pending`` is told how many are to come. ``doubted``
    is called when none can come, ``broken`` when the stream is not the one it was. Where some that
    were not taken may be gone, whosever they were, the messages up to a seq are left out, and
    ``skipped`` is told that; without it, only the last of each subject matters. In a stream that
    keeps one more than ``cap`` of each subject (0: all) a message is not sure while as many are to
    come: no less of a subject are there when one of it was deleted.
    """

    def __init__(
        self,
        jet: Jet,
        stream: str,
        subject: str,
        take: Callable[[Got], Awaitable[None]],
        *,
        after: int,
        skipped: Callable[[int], None] | None = None,
        cap: int = 0,
        pending: Callable[[int], None] | None = None,
        doubted: Callable[[LogError], None],
        broken: Callable[[BaseException], None],
    ) -> None:
        self._jet = jet
        self._stream = stream
        self._subject = subject
        self._take = take
        self.position = after
        """The seq of the last message that was taken, or where it began."""
        # How many messages there were to come when the consumer was made.
        self._pending = 0
        self._moved = asyncio.Event()
        self._doubted = doubted
        self._broken = broken
        self._consumer = ""
        self._place = 0
        self._heard = 0.0
        self._anew = asyncio.Event()
        self._subscription: Subscription | None = None
        self._skipped = skipped
        self._cap = cap
        self._tell_pending = pending
        # Set when it is known that nothing is missing before what comes.
        self._checked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        # When the stream was made: another one may have the same name.
        self._created: str | None = None

    @property
    def alive(self) -> bool:
        """Whether messages come, as far as is known."""
        return bool(self._consumer) and self._jet.connection.is_connected

    async def start(self) -> None:
        """Begin. Raises `LogError` if it can't."""
        await self._consume()
        self._task = asyncio.get_running_loop().create_task(self._watch())
        self._task.add_done_callback(self._ended)

    async def caught_up(self) -> None:
        """Wait until all is taken that there was at the start. Raises `LogUnavailableError`."""
        await self._until(lambda: self._place >= self._pending)

    async def reached(self, seq: int) -> None:
        """Wait until a message is taken. Raises `LogUnavailableError`."""
        await self._until(lambda: self.position >= seq)

    async def _until(self, there: Callable[[], bool]) -> None:
        while not there():
            self._moved.clear()
            try:
                async with asyncio.timeout(ANSWER_WITHIN):
                    await self._moved.wait()
            except TimeoutError:
                raise LogUnavailableError("JetStream did not send all of a stream") from None

    def suspend(self) -> None:
        """Take nothing until `restart`: the connection is lost.

        The consumer may outlive that, and would go on behind what was deleted meanwhile.
        """
        self._consumer = ""

    def restart(self) -> None:
        """Have the consumer made anew: the connection was lost meanwhile."""
        self._anew.set()

    async def close(self) -> None:
        """Follow no more. Calling it again does nothing."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._leave()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken(error)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        # Some waits of the client lose a cancellation that comes at the wrong moment.
        while not self._closed:
            try:
                async with asyncio.timeout(HEARTBEAT):
                    await self._anew.wait()
            except TimeoutError:
                if loop.time() - self._heard < HEARTBEAT * MISSED:
                    continue
            self._anew.clear()
            try:
                await self._leave()
                await self._consume()
            except LogBrokenError as error:
                self._broken(error)
                return
            except LogError as error:
                self._doubted(error)
                self._anew.set()
                await asyncio.sleep(RETRY)

    async def _consume(self) -> None:
        """Have the server send what is after the position."""
        if not self._jet.connection.is_connected:
            raise LogUnavailableError("the log is unavailable: not connected to NATS")
        name, position = token_hex(8), self.position
        inbox = self._jet.connection.new_inbox()
        self._place, self._consumer = 0, name
        self._checked.clear()
        self._heard = asyncio.get_running_loop().time()
        try:
            self._subscription = await self._jet.connection.subscribe(inbox, cb=self._on_message)
        except nats.errors.Error as error:
            raise LogUnavailableError(f"the log is unavailable: {error}") from None
        config = {
            "name": name,
            "deliver_subject": inbox,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": position + 1,
            "filter_subject": self._subject,
            "ack_policy": "none",
            "max_deliver": 1,
            "flow_control": True,
            "idle_heartbeat": int(HEARTBEAT * _NANOSECONDS),
            "inactive_threshold": int(HEARTBEAT * MISSED * _NANOSECONDS),
            "mem_storage": True,
            "num_replicas": 1,
        }
        made = await self._jet.ask(
            f"CONSUMER.CREATE.{self._stream}.{name}",
            {"stream_name": self._stream, "config": config, "action": "create"},
        )
        if made is None:
            raise LogBrokenError(f"the stream {self._stream} was deleted")
        self._pending = made["num_pending"]
        last = await self._last_if_missing(position)
        if last is not None and self._skipped is not None:
            self._skipped(last)
            self.position = max(self.position, last)
        self._checked.set()

    async def _last_if_missing(self, position: int) -> int | None:
        """Return where the stream ends if messages behind a position may have gone unseen.

        Raises `LogBrokenError` where it is another stream.
        """
        info = await self._jet.ask(f"STREAM.INFO.{self._stream}")
        if info is None:
            raise LogBrokenError(f"the stream {self._stream} was deleted")
        if info["created"] != (self._created or info["created"]):
            raise LogBrokenError(f"the stream {self._stream} was made anew")
        self._created = info["created"]
        state = info["state"]
        if state["last_seq"] < position:
            raise LogBrokenError(
                f"the stream {self._stream} ends at {state['last_seq']} and was read up to"
                f" {position}: it was made anew or has lost events"
            )
        last: int = state["last_seq"]
        return last if state["first_seq"] > position + 1 else None

    async def _leave(self) -> None:
        subscription, self._subscription = self._subscription, None
        self._consumer = ""
        if subscription is not None:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def _on_message(self, message: Msg) -> None:
        self._heard = asyncio.get_running_loop().time()
        headers = message.headers
        if headers is not None and headers.get("Status") == "100":
            if message.reply:
                await self._answer(message.reply)
            # A heartbeat says how many were sent.
            sent = headers.get("Nats-Last-Consumer")
            if sent is not None and int(sent) > self._place:
                self._anew.set()
            if (stalled := headers.get("Nats-Consumer-Stalled")) is not None:
                await self._answer(stalled)
            return
        # $JS.ACK.<stream>.<consumer>.<delivered>.<seq>.<place>.<time>.<pending>; or with a domain
        # and an account before the stream, and more behind.
        parts = message.reply.split(".")
        begin = 3 if len(parts) == _SHORT else 5
        consumer, _, seq_text, place_text, _, pending = parts[begin : begin + 6]
        seq, place = int(seq_text), int(place_text)
        await self._checked.wait()
        if consumer != self._consumer:
            return
        if self._tell_pending is not None:
            self._tell_pending(int(pending))
        if place != self._place + 1:
            self._anew.set()
            return
        if seq > self.position:
            sure = not self._cap or int(pending) < self._cap
            await self._take(Got(seq, message.subject, message.data, sure))
            self.position = seq
        # It may have been made anew meanwhile.
        if consumer == self._consumer:
            self._place = place
        self._moved.set()

    async def _answer(self, reply: str) -> None:
        if self._jet.connection.is_connected:
            await self._jet.connection.publish(reply)
