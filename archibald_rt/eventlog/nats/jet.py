"""What JetStream is asked, and what its errors mean for a running server.

The client's own JetStream calls know neither atomic batches nor Direct Gets of several messages,
and hide which of a server's answers mean that nothing was stored; its connection is used as it
is.
"""

import asyncio
import json
from base64 import b64decode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from secrets import token_hex
from typing import Any

import msgspec
import nats.errors
from nats.aio.client import Client

from archibald_rt.errors import LogUnavailableError, LogUncertainError

ANSWER_WITHIN = 5.0
"""For how many seconds an answer is waited for: a new leader takes 4 to 6."""

UNSENT = 16 * 1024 * 1024
"""How many bytes may wait to be sent; more means that the connection takes nothing."""

KEYED = "Rt-Keyed"
"""The header of an event that has a key: the message right before it."""

ASK_EVERY = 1.0
"""After how many seconds without an answer the API is asked again."""

_WRONG_SEQUENCE = frozenset({10071, 10164})
_NOT_FOUND = frozenset({10037, 10059})
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
GUARD = "Nats-Expected-Last-Subject-Sequence-Subject"
"""The header of whose last seq is expected, where it is another subject's than the message's."""

BATCH, PLACE = "Nats-Batch-Id", "Nats-Batch-Sequence"
"""The headers of a message's batch, and of its place there, from 1."""

_EXPECTED_LAST = "Nats-Expected-Last-Sequence"


class Message(msgspec.Struct, frozen=True, gc=False):
    """What is to be stored; with ``expected`` only if that is the subject's last seq (0: none).

    With a ``guard`` it is that subject's last seq that is expected.
    """

    subject: str
    data: bytes
    expected: int | None = None
    guard: str | None = None
    headers: Mapping[str, str] = {}


class Got(msgspec.Struct, frozen=True, gc=False):
    """What is stored; without ``headers`` where the leader was asked for one message."""

    seq: int
    subject: str
    data: bytes
    headers: Mapping[str, str] = {}


class SequenceError(Exception):
    """Nothing was stored: a subject's last seq was not the one that was expected."""


class Jet:
    """JetStream on one connection.

    What asks raises `LogUnavailableError`; what stores also `LogUncertainError`.
    """

    def __init__(self, connection: Client) -> None:
        self.connection = connection

    async def ask(
        self, what: str, body: Mapping[str, Any] | None = None, *, once: bool = False
    ) -> dict[str, Any] | None:
        """Ask the API, whose leader answers; None for what is not there.

        Without a leader nobody answers, and nothing is kept for the next one: it is asked again
        every now and then, unless ``once`` says that what is done twice has another answer.
        """
        data = b"" if body is None else json.dumps(body).encode()
        within, tries = (
            (ANSWER_WITHIN, 1) if once else (ASK_EVERY, round(ANSWER_WITHIN / ASK_EVERY))
        )
        for tries_left in reversed(range(tries)):
            try:
                answer = json.loads(await self._request(f"$JS.API.{what}", data, within=within))
                break
            except nats.errors.TimeoutError:
                if not tries_left:
                    raise LogUnavailableError(f"JetStream did not answer {what} in time") from None
        error = answer.get("error")
        if error is None:
            found: dict[str, Any] = answer
            return found
        if error.get("err_code") in _NOT_FOUND:
            return None
        raise LogUnavailableError(f"JetStream refused {what}: {error.get('description')}")

    async def store(
        self, messages: Sequence[Message], *, after: int | None = None, name: str = ""
    ) -> int:
        """Store messages, all of them or none, one behind the other; returns the last seq.

        With ``after`` only if that is the stream's last seq. More than one are a batch, by this
        ``name`` or any. Raises `SequenceError` where an expectation was not met.
        """
        # A batch costs 5 ms more than a message: the server stages it on disk.
        batch = name or token_hex(16) if len(messages) > 1 else None
        try:
            for place, message in enumerate(messages, 1):
                headers = _headers(message, batch, place)
                if after is not None and place == 1:
                    headers[_EXPECTED_LAST] = str(after)
                if place == len(messages):
                    break
                self._require_connection()
                await self.connection.publish(message.subject, message.data, headers=headers)
            if batch is not None:
                headers["Nats-Batch-Commit"] = "1"
            answer = json.loads(await self._request(message.subject, message.data, headers))
        except nats.errors.TimeoutError:
            raise LogUncertainError("JetStream did not acknowledge in time") from None
        except nats.errors.Error as error:
            # It ended before the batch was committed.
            raise LogUnavailableError(_explained(error)) from None
        refusal = answer.get("error")
        if refusal is None:
            seq: int = answer["seq"]
            return seq
        if refusal.get("err_code") in _WRONG_SEQUENCE:
            raise SequenceError(refusal.get("description"))
        raise LogUnavailableError(f"JetStream refused to store: {refusal.get('description')}")

    async def last(self, stream: str, subject: str) -> Got | None:
        """Return the last message of a subject, as the leader has it."""
        return await self._get(stream, {"last_by_subj": subject})

    async def first(self, stream: str, subject: str, *, after: int = 0) -> Got | None:
        """Return the first message of a subject after a seq, as the leader has it."""
        return await self._get(stream, {"next_by_subj": subject, "seq": after + 1})

    async def get(self, stream: str, seq: int) -> Got | None:
        """Return the message of a seq, as the leader has it."""
        return await self._get(stream, {"seq": seq})

    async def _get(self, stream: str, body: Mapping[str, Any]) -> Got | None:
        answer = await self.ask(f"STREAM.MSG.GET.{stream}", body)
        if answer is None:
            return None
        message = answer["message"]
        return Got(message["seq"], message["subject"], b64decode(message.get("data", "")))

    async def read(
        self, stream: str, subject: str, *, after: int, count: int, max_bytes: int
    ) -> tuple[list[Got], bool]:
        """Read a subject's messages after a seq from any replica, which may be behind.

        Returns some of them, at most so many, at least one where there is one, and whether the
        replica has more.
        """
        body = {
            "next_by_subj": subject,
            "seq": after + 1,
            "batch": count,
            "max_bytes": max(1, max_bytes),
        }
        found: list[Got] = []
        async with self._inbox() as (inbox, answers):
            try:
                await self.connection.publish(
                    f"$JS.API.DIRECT.GET.{stream}", json.dumps(body).encode(), reply=inbox
                )
                while True:
                    async with asyncio.timeout(ANSWER_WITHIN):
                        message = await answers.get()
                    headers = message.headers or {}
                    if "Nats-Sequence" not in headers:
                        break
                    seq, subject = int(headers["Nats-Sequence"]), headers["Nats-Subject"]
                    found.append(Got(seq, subject, message.data, headers))
            except TimeoutError:
                raise LogUnavailableError("JetStream did not answer a read in time") from None
            except nats.errors.Error as error:
                raise LogUnavailableError(_explained(error)) from None
        status = headers.get("Status")
        if status == "204":
            return found, int(headers.get("Nats-Num-Pending", "0")) > 0
        if status == "404":
            return found, False
        raise LogUnavailableError(f"JetStream refused a read: {status}")

    @asynccontextmanager
    async def _inbox(self) -> AsyncIterator[tuple[str, "asyncio.Queue[Any]"]]:
        self._require_connection()
        answers: asyncio.Queue[Any] = asyncio.Queue()
        inbox = self.connection.new_inbox()
        subscription = await self.connection.subscribe(inbox, cb=answers.put)
        try:
            yield inbox, answers
        finally:
            if self.connection.is_connected:
                await subscription.unsubscribe()

    async def _request(
        self,
        subject: str,
        data: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        within: float | None = None,
    ) -> bytes:
        self._require_connection()
        try:
            answer = await self.connection.request(
                subject,
                data,
                timeout=within or ANSWER_WITHIN,
                headers=dict(headers) if headers else None,
            )
        except nats.errors.TimeoutError:
            raise
        except nats.errors.Error as error:
            raise LogUnavailableError(_explained(error)) from None
        # `asyncio.wait_for` of Python 3.11, in the client, loses a cancellation that comes
        # together with the answer.
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise asyncio.CancelledError
        return answer.data

    def _require_connection(self) -> None:
        # What is published now would wait for the connection, and be stored after its answer.
        if not self.connection.is_connected:
            raise LogUnavailableError("the log is unavailable: not connected to NATS")
        if self.connection.pending_data_size > UNSENT:
            raise LogUnavailableError("the log is unavailable: the connection to NATS stands still")


def _headers(message: Message, batch: str | None, place: int) -> dict[str, str]:
    headers = {**message.headers}
    if batch is not None:
        headers |= {BATCH: batch, PLACE: str(place)}
    if message.expected is not None:
        headers[_EXPECTED] = str(message.expected)
    if message.guard is not None:
        headers[GUARD] = message.guard
    return headers


def _explained(error: nats.errors.Error) -> str:
    if isinstance(error, nats.errors.NoRespondersError):
        return "the log is unavailable: JetStream has no leader for it"
    return f"the log is unavailable: {error}"
