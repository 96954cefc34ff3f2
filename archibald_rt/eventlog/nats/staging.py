"""A stream that counts for nothing before all of it is there.

It is made without an epoch, so that no server serves it, and with the name of the import that
fills it. The epoch is the last thing it is given.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from secrets import token_hex
from typing import Any

import nats.errors
from nats.aio.msg import Msg

from archibald_rt.errors import ArchibaldError, LogCopyError, LogOpenError, LogUnavailableError
from archibald_rt.eventlog.base import Retention
from archibald_rt.eventlog.nats.definition import (
    EPOCH,
    IMPORTING,
    config_of,
    find_stream,
    new_epoch,
    open_bucket,
    require_ours,
)
from archibald_rt.eventlog.nats.jet import Jet
from archibald_rt.eventlog.nats.marks import PREFIX
from archibald_rt.eventlog.nats.names import Names
from archibald_rt.eventlog.nats.remote import Remote
from archibald_rt.eventlog.nats.state import State

_ANSWER_WITHIN = 2.0


class Staged:
    """A stream under way; made by `staged`."""

    def __init__(self, jet: Jet, names: Names, state: State) -> None:
        self._jet = jet
        self._names = names
        self.state = state
        self.mark = token_hex(8)
        self.epoch = ""

    async def begin(self, retention: Retention, replicas: int) -> None:
        """Make the stream and the bucket. Raises `LogOpenError` where something is there."""
        stream, bucket = self._names.stream, self.state.bucket
        found = await find_stream(self._jet, stream)
        remains = found is not None and await self._are_remains(found)
        beside = await find_stream(self._jet, bucket)
        if beside is not None and not remains and await self._holds_something():
            raise LogOpenError(
                f"[nats] bucket {bucket}: is not empty; import into a new stream and set [nats]"
                " stream to it"
            )
        # The stream says what it all is: it is the last to go.
        if beside is not None:
            await self._jet.ask(f"STREAM.DELETE.{bucket}")
        if found is not None:
            await self._jet.ask(f"STREAM.DELETE.{stream}")
        await self._jet.connection.subscribe(self._names.importing, cb=self._here)
        config = config_of(self._names, retention, replicas)
        try:
            made = {**config, "metadata": {IMPORTING: self.mark}}
            await self._jet.ask(f"STREAM.CREATE.{stream}", made)
        except LogUnavailableError as error:
            raise LogOpenError(f"[nats] stream {stream}: {error}") from None
        await open_bucket(self._jet, bucket, self.state.subjects, replicas=replicas)

    async def _holds_something(self) -> bool:
        """Whether there is more in the bucket than the marks of servers."""
        body = {"subjects_filter": self.state.subjects}
        info = await self._jet.ask(f"STREAM.INFO.{self.state.bucket}", body)
        subjects = (info or {}).get("state", {}).get("subjects") or {}
        marks = self.state.prefix + PREFIX
        return any(not subject.startswith(marks) for subject in subjects)

    async def _are_remains(self, found: Mapping[str, Any]) -> bool:
        """Whether a stream is what an import left that was broken off; else it is empty."""
        stream, metadata = self._names.stream, found["config"].get("metadata") or {}
        require_ours(stream, metadata)
        if EPOCH not in metadata:
            try:
                await self._jet.connection.request(
                    self._names.importing, b"", timeout=_ANSWER_WITHIN
                )
            except nats.errors.NoRespondersError:
                return True
            except nats.errors.Error as error:
                raise LogOpenError(f"[nats] stream {stream}: {error}") from None
            raise LogOpenError(f"[nats] stream {stream}: another import into it is under way")
        if found["state"]["last_seq"]:
            raise LogOpenError(
                f"[nats] stream {stream}: is not empty; import into a new one and set [nats]"
                " stream to it"
            )
        if found["state"]["consumer_count"]:
            raise LogOpenError(
                f"[nats] stream {stream}: a server is running on it, or was seconds ago; stop it"
            )
        return False

    async def _here(self, message: Msg) -> None:
        await message.respond(b"")

    async def finish(self, last: int) -> None:
        """Make a log of it, whose last seq has to be that."""
        found = await self._own()
        if found is None or found["state"]["last_seq"] != last:
            raise LogCopyError(
                f"[nats] stream {self._names.stream}: somebody else has changed it meanwhile"
            )
        epoch = new_epoch()
        config = {**found["config"], "metadata": {EPOCH: epoch}}
        await self._jet.ask(f"STREAM.UPDATE.{self._names.stream}", config)
        self.epoch = epoch

    async def abandon(self) -> None:
        """Leave nothing of it, unless somebody else has made it his."""
        if await self._own() is not None:
            await self._jet.ask(f"STREAM.DELETE.{self.state.bucket}")
            await self._jet.ask(f"STREAM.DELETE.{self._names.stream}")

    async def _own(self) -> dict[str, Any] | None:
        found = await find_stream(self._jet, self._names.stream)
        if found is None or (found["config"].get("metadata") or {}).get(IMPORTING) != self.mark:
            return None
        return found


@contextmanager
def staged(remote: Remote, retention: Retention, *, replicas: int) -> Iterator[Staged]:
    """Let a stream be filled, that is no log unless it is finished in the block.

    Nothing is left of it otherwise, as far as JetStream can be asked; what is left is replaced by
    the next import. Raises `LogOpenError` where there is a log that holds something, or another
    import is under way.
    """
    jet, names = remote.jet, remote.names
    stream = Staged(jet, names, State(jet, names.stream, revoked=_nothing, erased=_nothing))
    try:
        remote.run(stream.begin(retention, replicas))
        yield stream
    finally:
        if not stream.epoch:
            # What went wrong before is what is to be said.
            with suppress(ArchibaldError):
                remote.run(stream.abandon())


def _nothing(*_: object) -> None:
    """Do nothing."""
