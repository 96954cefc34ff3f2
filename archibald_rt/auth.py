"""Who may connect and who may emit."""

import functools
import hmac
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jwt

from archibald_rt.errors import AuthError
from archibald_rt.events import user_id_fault

MAX_TOKEN = 8 * 1024
"""How many bytes a token may have."""

REMEMBERED = 20_000
"""How many tokens that were accepted are remembered, the last ones used."""

LONGEST_REMEMBERED = 1024
"""How many bytes a token may have to be remembered: all together at most some 20 MB."""

_BEARER = re.compile(r"bearer +(\S+) *", re.IGNORECASE | re.ASCII)
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


class TokenVerifier:
    """Verifies JSON Web Tokens (RFC 7519) by shared secrets.

    Several ``secrets`` allow for rotation. ``audience`` and ``issuer`` are checked where they
    are given. Of ``user_claims`` the first that is present names the user.
    """

    def __init__(
        self,
        secrets: Sequence[str],
        *,
        algorithms: Sequence[str] = ("HS256",),
        issuer: str | None = None,
        audience: str | None = None,
        user_claims: Sequence[str] = ("userId", "sub"),
        role_claim: str = "role",
        admin_role: str = "admin",
        require_exp: bool = False,
        leeway: float = 30.0,
    ) -> None:
        self._secrets = [secret.encode() for secret in secrets]
        # A secret is no public key: only the algorithms for which it is meant are tried.
        self._algorithms = [name for name in algorithms if name.startswith("HS")]
        self._issuer = issuer
        self._audience = audience
        self._user_claims = user_claims
        self._role_claim = role_claim
        self._admin_role = admin_role
        self._leeway = leeway
        self._options: dict[str, Any] = {
            "require": ["exp"] if require_exp else [],
            "verify_aud": audience is not None,
            "verify_iss": issuer is not None,
            # The user may be an integer, and PyJWT refuses a `sub` that is one.
            "verify_sub": False,
            "verify_jti": False,
        }
        # A device that comes back brings the token it had: reading that again is a tenth of a
        # connect. What is refused is not remembered.
        self._remembered = functools.lru_cache(maxsize=REMEMBERED)(self._identify)

    def verify(self, token: str, *, user: str | None = None) -> Identity:
        """Check a token and read who it is for; with ``user`` it has to be that one's.

        Raises `AuthError`, without the token in its message.
        """
        if not token:
            raise AuthError("no token")
        if len(token) > MAX_TOKEN:
            raise AuthError(f"the token is longer than {MAX_TOKEN} bytes")
        remembers = len(token) <= LONGEST_REMEMBERED
        identity = self._remembered(token) if remembers else self._identify(token)
        if identity.expires is not None and identity.expires + self._leeway <= time.time():
            # When it was read for the first time it had not.
            raise AuthError("token refused: Signature has expired")
        if user is not None and identity.user != user:
            raise AuthError("token refused: it is another user's")
        return identity

    def _identify(self, token: str) -> Identity:
        claims = self._claims(token)
        token_id = claims.get("jti")
        return Identity(
            self._user(claims),
            self._is_admin(claims),
            _second(claims.get("exp")),
            _moment(claims.get("iat")),
            None if token_id is None else str(token_id),
        )

    def _claims(self, token: str) -> Mapping[str, Any]:
        refusal: Exception = AuthError("no key to verify tokens with")
        for secret in self._secrets:
            try:
                return jwt.decode(
                    token,
                    secret,
                    algorithms=self._algorithms,
                    issuer=self._issuer,
                    audience=self._audience,
                    leeway=self._leeway,
                    options=self._options,  # type: ignore[arg-type]  # a TypedDict there
                )
            except jwt.InvalidSignatureError as error:
                refusal = error
            # The last three: claims that are no numbers, an infinite one, a nested bomb.
            except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
                refusal = error
                break
        raise AuthError(f"token refused: {refusal}") from None

    def _user(self, claims: Mapping[str, Any]) -> str:
        name = next((name for name in self._user_claims if name in claims), None)
        if name is None:
            raise AuthError(f"token refused: none of the claims {', '.join(self._user_claims)}")
        value = claims[name]
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or user_id_fault(value) is not None:
            raise AuthError(f"token refused: the claim {name} is no user id")
        return value

    def _is_admin(self, claims: Mapping[str, Any]) -> bool:
        role = claims.get(self._role_claim)
        return role == self._admin_role or (isinstance(role, list) and self._admin_role in role)


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


class BearerTokens:
    """A set of secrets, one of which the caller of an internal endpoint has to present."""

    def __init__(self, tokens: Sequence[str]) -> None:
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
