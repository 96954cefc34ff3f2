"""What a token says of the device that sent it, and the claims that say it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from archibald_rt.errors import AuthError, Refusal
from archibald_rt.events import user_id_fault

# The last second that RFC 3339 can write.
_LATEST = 253402300799


@dataclass(frozen=True, slots=True)
class Identity:
    """What a token says of the device that sent it.

    ``expires`` and ``issued`` are the token's ``exp`` (the whole seconds of it) and ``iat`` in
    seconds since 1970, ``token_id`` is its ``jti``; each is None if the token has none.
    """

    user: str
    admin: bool
    expires: float | None
    issued: float | None = None
    token_id: str | None = None


@dataclass(frozen=True, slots=True)
class ClaimNames:
    """Which claims name the user and the role, and which role is the administrators'.

    Of the ``user`` claims the first that is present decides.
    """

    user: Sequence[str] = ("userId", "sub")
    role: str = "role"
    admin: str = "admin"

    def identity(self, claims: Mapping[str, Any]) -> Identity:
        """Read the claims of a token whose signature and dates are good; raises `AuthError`."""
        token_id = claims.get("jti")
        return Identity(
            self._user(claims),
            self._is_admin(claims),
            _second(claims.get("exp")),
            _moment(claims.get("iat")),
            None if token_id is None else str(token_id),
        )

    def _user(self, claims: Mapping[str, Any]) -> str:
        name = next((name for name in self.user if name in claims), None)
        if name is None:
            detail = f"token refused: none of the claims {', '.join(self.user)}"
            raise AuthError(detail, Refusal.CLAIMS)
        value = claims[name]
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or user_id_fault(value) is not None:
            raise AuthError(f"token refused: the claim {name} is no user id", Refusal.CLAIMS)
        return value

    def _is_admin(self, claims: Mapping[str, Any]) -> bool:
        role = claims.get(self.role)
        return role == self.admin or (isinstance(role, list) and self.admin in role)


def _second(claim: Any) -> float | None:
    """Return a date that PyJWT has checked (RFC 7519, section 2: NumericDate)."""
    return None if claim is None else float(min(int(claim), _LATEST))


def _moment(claim: Any) -> float | None:
    """Return such a date with its fraction: a revocation may lie within the same second."""
    if claim is None:
        return None
    number = float(claim) if isinstance(claim, str) else claim
    # An integer may be larger than any float.
    return float(max(-_LATEST, min(number, _LATEST)))
