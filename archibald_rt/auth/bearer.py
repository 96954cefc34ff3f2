"""The secrets that callers of the internal listener present, and where a header has a token."""

import hmac
import re
from collections.abc import Sequence

_BEARER = re.compile(r"bearer +(\S+) *", re.IGNORECASE | re.ASCII)


class BearerTokens:
    """A set of secrets, one of which the caller of an internal endpoint has to present."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.use(tokens)

    def use(self, tokens: Sequence[str]) -> None:
        """Accept these and no others from now on."""
        self._tokens = [token.encode() for token in tokens]

    def accept(self, token: bytes) -> bool:
        """Whether the token is one of the set, found out in a time that doesn't tell."""
        # All are compared, and as bytes: compare_digest raises on text that is not ASCII.
        matches = [hmac.compare_digest(token, each) for each in self._tokens]
        return any(matches)


def bearer_token(authorization: str) -> str:
    """Return the token of an ``Authorization: Bearer`` header (RFC 6750), empty without one."""
    match = _BEARER.fullmatch(authorization)
    return match[1] if match else ""
