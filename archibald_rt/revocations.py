"""Tokens that are refused though nothing is wrong with them, and the set of them. No I/O."""

import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Protocol

import msgspec

from archibald_rt.timestamps import SteadyClock

MAX_TOKENS = 100_000
"""How many tokens may be revoked at once: some 160 bytes each where an id is a UUID."""

FORGOTTEN_AT_ONCE = 10_000
"""How many are forgotten at once: all of them would hold the loop up for 60 ms."""

_SECOND = 1_000_000_000


class UserRevocation(msgspec.Struct, frozen=True, gc=False):
    """A user's tokens issued before a moment, or that don't say when, are refused for good.

    ``before`` is in nanoseconds since 1970.
    """

    user: str
    before: int


class TokenRevocation(msgspec.Struct, frozen=True, gc=False):
    """One token is refused, by its id (``jti``), until it has expired.

    ``expires`` is in nanoseconds since 1970.
    """

    token_id: str
    expires: int


Revocation = UserRevocation | TokenRevocation
"""Of two of the same user, or of the same token, the later moment counts."""


class Holder(Protocol):
    """Who holds a token, and what the token says of itself."""

    @property
    def user(self) -> str:
        """The user it is for."""

    @property
    def issued(self) -> float | None:
        """When it was issued, in seconds since 1970; None if it doesn't say."""

    @property
    def token_id(self) -> str | None:
        """Which one it is; None if it doesn't say."""


def _earlier_clock() -> Callable[[], float]:
    """Return a clock that is not fooled by a wall clock set ahead meanwhile."""
    steady = SteadyClock()
    return lambda: min(time.time(), steady() / 1000)


class Revocations:
    """All revocations that are known, in memory, so that a device is not kept waiting.

    ``leeway`` is for how many seconds a token is taken after its expiry, ``max_tokens`` how many
    may be revoked at once. ``clock`` returns seconds since 1970.
    """

    def __init__(
        self,
        known: Iterable[Revocation] = (),
        *,
        leeway: float = 0.0,
        max_tokens: int = MAX_TOKENS,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._users: dict[str, int] = {}
        self._tokens: dict[str, int] = {}
        self._leeway = leeway
        self._max_tokens = max_tokens
        self._clock = clock or _earlier_clock()
        for each in known:
            self.add(each)

    @property
    def users(self) -> int:
        """Of how many users tokens are revoked."""
        return len(self._users)

    @property
    def tokens(self) -> int:
        """How many single tokens are revoked."""
        return len(self._tokens)

    @property
    def forgettable(self) -> int:
        """Which tokens need not be remembered: those that expired before this moment.

        In nanoseconds since 1970. They are refused for that, with leeway and all.
        """
        return int((self._clock() - self._leeway) * _SECOND)

    def has_room(self, revocation: Revocation) -> bool:
        """Whether it may be added. A user's always may: there is one for each at most."""
        if isinstance(revocation, UserRevocation) or revocation.token_id in self._tokens:
            return True
        return len(self._tokens) < self._max_tokens

    def add(self, revocation: Revocation) -> None:
        """Refuse what it says from now on."""
        if isinstance(revocation, UserRevocation):
            name, moment, those = revocation.user, revocation.before, self._users
        else:
            name, moment, those = revocation.token_id, revocation.expires, self._tokens
        those[name] = max(moment, those.get(name, moment))

    def forget(self, expired_before: int) -> None:
        """Remember some of the tokens no more that expired before a moment.

        The moment is in nanoseconds since 1970. What is left goes the next time.
        """
        expired = (name for name, expires in self._tokens.items() if expires < expired_before)
        for name in list(islice(expired, FORGOTTEN_AT_ONCE)):
            del self._tokens[name]

    def revoked(self, holder: Holder) -> bool:
        """Whether a token is refused."""
        before = self._users.get(holder.user)
        # A quotient of integers is the nearest float there is, as the token's own decimals were
        # read: the same moment is never taken for an earlier one.
        if before is not None and (holder.issued is None or holder.issued < before / _SECOND):
            return True
        return holder.token_id is not None and holder.token_id in self._tokens
