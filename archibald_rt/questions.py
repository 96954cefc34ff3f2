"""What the servers on one log ask each other: types. No I/O."""

import msgspec

from archibald_rt.answers import ConnectionOrder
from archibald_rt.revocations import Revocation, TokenRevocation, UserRevocation


class AboutStats(msgspec.Struct, frozen=True, tag="stats"):
    """The figures of a server; it answers with its `Stats`."""


class AboutConnections(msgspec.Struct, frozen=True, tag="connections"):
    """Who is connected; it answers with its `Connections`.

    ``user`` and ``text`` (folded) say which ones are asked for, where they are not empty, and
    ``order`` which of them come first if there are more than ``limit``.
    """

    limit: int
    user: str = ""
    text: str = ""
    order: ConnectionOrder | None = None


class Shut(msgspec.Struct, frozen=True, tag="shut"):
    """Devices to be cut off, of a user or with a token; answered by how many.

    Tokens issued ``before`` a moment are revoked, or the one token until it ``expires``; None
    revokes nothing. Moments are in nanoseconds since 1970.
    """

    user: str | None = None
    before: int | None = None
    token_id: str | None = None
    expires: int | None = None

    @property
    def revocation(self) -> Revocation | None:
        """What is revoked."""
        if self.user is not None and self.before is not None:
            return UserRevocation(self.user, self.before)
        if self.token_id is not None and self.expires is not None:
            return TokenRevocation(self.token_id, self.expires)
        return None


Question = AboutStats | AboutConnections | Shut
"""Anything a server may be asked by another."""

decode_question = msgspec.json.Decoder(Question).decode
"""Read a question. Raises `msgspec.DecodeError`, also for one of a version that knows more."""
