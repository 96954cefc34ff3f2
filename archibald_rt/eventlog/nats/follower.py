"""Following a stream: every message of some subjects, once, in order, for as long as it takes.

An ordered consumer of our own. The client's starts at the first message of all when it is made
anew before it has had one, and tells nobody that the stream went on without it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from secrets import token_hex
from typing import TYPE_CHECKING

import nats.errors
import structlog
from nats.aio.msg import Msg

from archibald_rt.errors import LogBrokenError, LogError, LogUnavailableError, LogUncertainError
from archibald_rt.eventlog.nats import consumers
from archibald_rt.eventlog.nats.consumers import HEARTBEAT, MISSED, place_of
from archibald_rt.eventlog.nats.jet import ANSWER_WITHIN, KEYED, Got, Jet, Message

if TYPE_CHECKING:
    from nats.aio.subscription import Subscription

RETRY = 0.25
"""After how many seconds it is tried again."""

LOOKS = 20
"""How often it is looked whether a stream ends too early: who has just become its leader may not
have all of it at once."""

_logger = structlog.stdlib.get_logger("archibald_rt.eventlog.nats")


class Follower:
    """Follows the messages of a stream after a seq; `start` it, and `close` it at the end.

    ``take`` is awaited with each of them, and ``pending`` is told how many are to come. ``doubted``
    is called when none can come, ``broken`` when the stream is not the one it was, or a message
    could not be taken for a fault of ours. What has the subject ``probe`` means nothing.

    With ``missed`` the ``subjects`` have to be all that are stored but for the keys of events. Then
    a seq that is missing is that of a message which was deleted before it came, whosever it was.
    ``missed`` is awaited with the seq at which the stream ends, and what lies before is left out.
    Without it, only the last message of each subject matters.
    """

    def __init__(
        self,
        jet: Jet,
        stream: str,
        subjects: Sequence[str],
        take: Callable[[Got], Awaitable[None]],
        *,
        after: int,
        probe: str,
        missed: Callable[[int], Awaitable[None]] | None = None,
        pending: Callable[[int], None] | None = None,
        doubted: Callable[[LogError], None],
        broken: Callable[[BaseException], None],
    ) -> None:
        self._jet = jet
        self._stream = stream
        self._subjects = list(subjects)
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
        self._taking = False
        self._anew = asyncio.Event()
        self._subscription: Subscription | None = None
        self._missed = missed
        # Whether a message was deleted before it came.
        self._hole = False
        self._probe = probe
        self._tell_pending = pending
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        # When the stream was made: another one may have the same name.
        self._created: str | None = None
        self.fault: LogError | None = None
        """Why no messages come; None where they do, as far as is known."""

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
        # Some waits of the client lose a cancellation that comes at the wrong moment.
        while not self._closed:
            try:
                async with asyncio.timeout(HEARTBEAT):
                    await self._anew.wait()
            except TimeoutError:
                if not self._silent:
                    continue
                _logger.warning("the stream is silent, asking for it anew", stream=self._stream)
            self._anew.clear()
            try:
                await self._leave()
                await self._consume()
            except LogBrokenError as error:
                self._broken(error)
                return
            except LogError as error:
                self._fail(error)
                self._anew.set()
                await asyncio.sleep(RETRY)

    @property
    def _silent(self) -> bool:
        """Whether nothing has come for too long, though there is room for it."""
        now = asyncio.get_running_loop().time()
        return not self._taking and now - self._heard >= HEARTBEAT * MISSED

    def _fail(self, error: LogError) -> None:
        """Say that no messages come, and why, unless that was said."""
        if self.fault is None or str(self.fault) != str(error):
            _logger.warning("can't follow the stream", stream=self._stream, reason=str(error))
        self.fault = error
        self._doubted(error)

    async def _consume(self) -> None:
        """Have the server send what is after the position."""
        state = await self._state()
        if self._missed is not None and (self._hole or state["first_seq"] > self.position + 1):
            last = state["last_seq"]
            await self._missed(last)
            self.position, self._hole = max(self.position, last), False
        name, inbox = token_hex(8), self._jet.connection.new_inbox()
        self._place, self._consumer = 0, name
        self._heard = asyncio.get_running_loop().time()
        try:
            self._subscription = await self._jet.connection.subscribe(inbox, cb=self._on_message)
        except nats.errors.Error as error:
            raise LogUnavailableError(f"the log is unavailable: {error}") from None
        self._pending = await consumers.create(
            self._jet,
            self._stream,
            name,
            inbox=inbox,
            subjects=self._subjects,
            after=self.position,
        )
        if self.fault is not None:
            _logger.info("follows the stream again", stream=self._stream)
            self.fault = None

    async def _state(self) -> dict[str, int]:
        """Return from where to where the stream goes; `LogBrokenError` where it is another one."""
        for _ in range(LOOKS):
            info = await self._jet.ask(f"STREAM.INFO.{self._stream}")
            if info is None:
                raise LogBrokenError(f"the stream {self._stream} was deleted")
            if info["created"] != (self._created or info["created"]):
                raise LogBrokenError(f"the stream {self._stream} was made anew")
            self._created = info["created"]
            state: dict[str, int] = info["state"]
            if state["last_seq"] >= self.position:
                return state
            await asyncio.sleep(RETRY)
        await self._require_end(self.position)
        raise LogBrokenError(
            f"the stream {self._stream} ends at {state['last_seq']} and was read up to"
            f" {self.position}: it was made anew or has lost events"
        )

    async def _require_end(self, position: int) -> None:
        """Raise `LogUnavailableError` unless the stream does end before a seq.

        A leader that was cut off may say so before it knows of that; it can't store any more.
        """
        try:
            stored = await self._jet.store([Message(self._probe, b"")])
        except LogUncertainError as error:
            raise LogUnavailableError(str(error)) from None
        if stored > position:
            raise LogUnavailableError("the log is unavailable: who answers for it is behind")

    async def _leave(self) -> None:
        subscription, self._subscription = self._subscription, None
        self._consumer = ""
        if subscription is not None:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def _on_message(self, message: Msg) -> None:
        self._heard = asyncio.get_running_loop().time()
        self._taking = True
        try:
            headers = message.headers or {}
            status = headers.get("Status")
            if status == "100":
                await self._hear(message.reply, headers)
            elif status is None:
                await self._receive(message, headers)
            else:
                # The consumer has ended, whatever it says.
                self._anew.set()
        except nats.errors.Error:
            # The connection is being lost; what it did not answer comes again.
            self._anew.set()
        except Exception as error:  # noqa: BLE001 - the client would log it and go on without the message
            self._broken(error)
        finally:
            self._taking = False
            self._heard = asyncio.get_running_loop().time()

    async def _hear(self, reply: str, headers: dict[str, str]) -> None:
        """Answer what is asked so as not to be sent too much, and look what should have come."""
        if reply:
            await self._answer(reply)
        if (stalled := headers.get("Nats-Consumer-Stalled")) is not None:
            await self._answer(stalled)
        # A heartbeat says how many were sent; it comes when there are no more.
        sent = headers.get("Nats-Last-Consumer")
        if sent is not None and int(sent) > self._place:
            self._anew.set()
        elif sent is not None and stalled is None:
            if self._tell_pending is not None:
                self._tell_pending(0)
            # And up to where it was looked for them: at the end lies no key without its event.
            if self._missed is not None and int(headers.get("Nats-Last-Stream", 0)) > self.position:
                self._lost_some()

    async def _receive(self, message: Msg, headers: dict[str, str]) -> None:
        try:
            place = place_of(message.reply)
        except ValueError:
            _logger.warning("message of nobody where the stream's come", stream=self._stream)
            return
        if place.consumer != self._consumer:
            return
        if self._tell_pending is not None:
            self._tell_pending(place.pending + 1)
        if place.place != self._place + 1:
            self._anew.set()
            return
        seq = place.seq
        if seq > self.position:
            # Right before an event with a key lies the key.
            expected = self.position + (2 if KEYED in headers else 1)
            if self._missed is not None and seq > expected:
                self._lost_some()
                return
            await self._take(Got(seq, message.subject, message.data, headers))
            self.position = seq
        # It may have been made anew meanwhile.
        if place.consumer == self._consumer:
            self._place = place.place
        self._moved.set()

    def _lost_some(self) -> None:
        self._hole, self._consumer = True, ""
        self._anew.set()

    async def _answer(self, reply: str) -> None:
        if self._jet.connection.is_connected:
            await self._jet.connection.publish(reply)
