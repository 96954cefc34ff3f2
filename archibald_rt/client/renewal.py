"""When a client's token is renewed: in place, before it expires."""

import math
from datetime import datetime

import jwt

_SHARE = 0.8
"""Of what a token has left: the rest is for asking again, and for what takes long."""

_AT_LEAST = 1.0
"""Seconds between two renewals, however short-lived the tokens are."""


def renew_in(token: str, now: float) -> float | None:
    """Return after how many seconds to renew a token; None where it says no time to end at.

    ``now`` is the server's, in seconds since 1970: it is by its clock that tokens expire. The
    token is read, not verified; one that can't be read is the server's to judge.
    """
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
        left = float(claims["exp"]) - now
    except (jwt.PyJWTError, KeyError, TypeError, ValueError, OverflowError):
        return None
    return max(left * _SHARE, _AT_LEAST) if math.isfinite(left) else None


def seconds_of(timestamp: str) -> float | None:
    """Return the seconds since 1970 of a server's timestamp; None if it is none."""
    try:
        return datetime.fromisoformat(timestamp).timestamp()
    except (ValueError, OverflowError):
        return None
