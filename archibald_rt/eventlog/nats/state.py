"""What all servers on a log have to know besides its events: a key-value bucket, followed.

Each key holds a number: ``revoked.user.<user>`` the moment before which tokens are refused,
``revoked.token.<id>`` when the token expires, ``erased.<user>`` up to where the user's own events
were erased, or lost before they came into this stream. An empty name stands for the broadcasts.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from archibald_rt.errors import LogUnavailableError, LogUncertainError
from archibald_rt.eventlog.nats.jet import Got, Jet, Message, SequenceError
from archibald_rt.eventlog.nats.names import text_of, token
from archibald_rt.revocations import Revocation, TokenRevocation, UserRevocation

_NUMBER = re.compile(rb"-?[0-9]{1,20}")
_TRIES = 20
_USER, _TOKEN, _ERASED = "revoked.user.", "revoked.token.", "erased."


class State:
    """The bucket as it is known here; to `hear` of its messages.

    ``revoked`` and ``erased`` are called with what another server has stored. One task stores.
    """

    def __init__(
        self,
        jet: Jet,
        stream: str,
        *,
        revoked: Callable[[Revocation], None],
        erased: Callable[[], None],
    ) -> None:
        self._jet = jet
        self.bucket = f"KV_{stream}_state"
        self.prefix = f"$KV.{stream}_state."
        self.subjects = f"{self.prefix}>"
        self.probe = f"{self.prefix}probe"
        # What each key holds, and the seq of the message that said so.
        self._values: dict[str, tuple[int, int]] = {}
        # What is being stored here: its message may come before the answer does.
        self._storing: tuple[str, int] | None = None
        self._stored = 0
        self._revoked = revoked
        self._erased = erased

    @property
    def revocations(self) -> Sequence[Revocation]:
        """All that are known."""
        found = (_revocation(key, value) for key, (value, _) in self._values.items())
        return [each for each in found if each is not None]

    def erased(self, user: str | None) -> int:
        """Return up to where a user's own events, or (None) broadcasts, are gone; 0 for none."""
        return self._values.get(_ERASED + token(user or ""), (0, 0))[0]

    async def erased_by_now(self, user: str) -> int:
        """Return as `erased` what the bucket holds, which may not have been heard of here yet."""
        last = await self._jet.last(self.bucket, self.prefix + _ERASED + token(user))
        known = self.erased(user)
        return (
            known
            if last is None or not _NUMBER.fullmatch(last.data)
            else max(known, int(last.data))
        )

    @property
    def erasures(self) -> Mapping[str, int]:
        """Up to where whose own events are gone for good; by an empty name the broadcasts."""
        return {
            text_of(key.removeprefix(_ERASED)): value
            for key, (value, _) in self._values.items()
            if key.startswith(_ERASED)
        }

    async def hear(self, got: Got) -> None:
        """Learn of a message of the bucket, as it comes."""
        key = got.subject.removeprefix(self.prefix)
        # A key that was deleted by hand holds nothing; what was known counts until a restart.
        if not _NUMBER.fullmatch(got.data):
            return
        if self._storing == (key, int(got.data)):
            self._stored = got.seq
        else:
            self._learn(key, int(got.data), got.seq)

    def _learn(self, key: str, value: int, seq: int) -> None:
        """Note what a key holds, and tell of it if another server has said so."""
        known, known_seq = self._values.get(key, (value, 0))
        if seq <= known_seq:
            return
        self._values[key] = max(known, value), seq
        if key.startswith(_ERASED):
            self._erased()
        elif (revocation := _revocation(key, value)) is not None:
            self._revoked(revocation)

    async def revoke(self, revocation: Revocation) -> int:
        """Store a revocation; of two the later moment counts. Returns its message's seq."""
        if isinstance(revocation, UserRevocation):
            return await self._raise(_USER + token(revocation.user), revocation.before)
        return await self._raise(_TOKEN + token(revocation.token_id), revocation.expires)

    async def erase(self, user: str | None, through: int) -> None:
        """Store that a user's own events, or (None) broadcasts, up to a seq are to be gone."""
        await self._raise(_ERASED + token(user or ""), through)

    async def forget(self, expired_before: int) -> None:
        """Delete the revocations of tokens that expired before a moment."""
        expired = [
            key
            for key, (value, _) in self._values.items()
            if key.startswith(_TOKEN) and value < expired_before
        ]
        for key in expired:
            body = {"filter": self.prefix + key}
            await self._jet.ask(f"STREAM.PURGE.{self.bucket}", body)
            self._values.pop(key, None)

    async def _raise(self, key: str, value: int) -> int:
        """Store a number under a key unless a higher one is there; returns its seq."""
        subject = self.prefix + key
        for _ in range(_TRIES):
            known, seq = self._values.get(key, (value - 1, 0))
            if known >= value:
                return seq
            self._storing, self._stored = (key, value), 0
            try:
                stored = await self._jet.store([Message(subject, str(value).encode(), seq)])
            except SequenceError:
                self._storing = None
                last = await self._jet.last(self.bucket, subject)
                if last is not None and _NUMBER.fullmatch(last.data):
                    # It may have been heard of meanwhile.
                    self._learn(key, int(last.data), last.seq)
                elif last is None:
                    # It was deleted by hand: what was known is known no more.
                    self._values.pop(key, None)
                else:
                    self._values[key] = value - 1, last.seq
            except LogUncertainError:
                if self._stored:
                    # It came though its answer didn't: it is as if another server had stored it.
                    self._learn(key, value, self._stored)
                raise
            else:
                self._values[key] = value, stored
                return stored
            finally:
                self._storing = None
        raise LogUnavailableError(
            f"the log is unavailable: {key} changes faster than it is written"
        )


def _revocation(key: str, value: int) -> Revocation | None:
    try:
        if key.startswith(_USER):
            return UserRevocation(text_of(key.removeprefix(_USER)), value)
        if key.startswith(_TOKEN):
            return TokenRevocation(text_of(key.removeprefix(_TOKEN)), value)
    except ValueError:
        # Not from one of us.
        return None
    return None
