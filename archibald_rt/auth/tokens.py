"""Users' tokens: JSON Web Tokens (RFC 7519), read and verified."""

import base64
import functools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jwt

from archibald_rt.auth.identity import ClaimNames, Identity
from archibald_rt.auth.jwks import Jwks
from archibald_rt.auth.keys import HMAC, Key
from archibald_rt.errors import AuthError, Refusal, UnknownKeyError

MAX_TOKEN = 8 * 1024
"""How many bytes a token may have."""

REMEMBERED = 20_000
"""How many tokens that were accepted are remembered, the last ones used."""

LONGEST_REMEMBERED = 1024
"""How many bytes a token may have to be remembered: all together at most some 20 MB."""

_CLAIM_NAMES = ClaimNames()

# The first that fits counts. PyJWT's own texts may hold parts of the token.
_REFUSALS: Sequence[tuple[type[Exception], Refusal, str]] = (
    (jwt.ExpiredSignatureError, Refusal.EXPIRED, "it has expired"),
    (jwt.ImmatureSignatureError, Refusal.NOT_YET_VALID, "it is not valid yet"),
    (jwt.InvalidAudienceError, Refusal.AUDIENCE, "it is for another audience"),
    (jwt.InvalidIssuerError, Refusal.ISSUER, "it is of another issuer"),
    (jwt.InvalidAlgorithmError, Refusal.ALGORITHM, "its algorithm is not allowed"),
    (jwt.InvalidKeyError, Refusal.ALGORITHM, "its algorithm is not that of the key"),
    (jwt.InvalidSignatureError, Refusal.SIGNATURE, "no key has made its signature"),
    (jwt.InvalidIssuedAtError, Refusal.CLAIMS, "its iat is no date"),
)


class TokenVerifier:
    """Verifies JSON Web Tokens (RFC 7519) by ``keys``, and by those of ``jwks``.

    Only ``algorithms`` are taken, and each key only with those of its own. ``audience`` and
    ``issuer`` are checked where they are given; ``leeway`` is in seconds.
    """

    def __init__(
        self,
        keys: Sequence[Key],
        jwks: Jwks | None = None,
        *,
        algorithms: Sequence[str] = ("HS256",),
        issuer: str | None = None,
        audience: str | None = None,
        claim_names: ClaimNames = _CLAIM_NAMES,
        require_exp: bool = False,
        leeway: float = 30.0,
    ) -> None:
        self._issuer = issuer
        self._audience = audience
        self._claim_names = claim_names
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
        self._jwks = jwks
        self.use(keys, algorithms=algorithms)

    def use(self, keys: Sequence[Key], *, algorithms: Sequence[str]) -> None:
        """Verify by these keys from now on; what was accepted by others is forgotten."""
        self._configured = tuple(keys)
        self._algorithms = tuple(algorithms)
        self._sort_out()

    def _sort_out(self) -> None:
        """Put the keys there are under the algorithms each of them may be used with."""
        self._fetched = self._jwks.keys if self._jwks is not None else ()
        self._keys: dict[str, list[Key]] = {name: [] for name in self._algorithms}
        for key in (*self._configured, *self._fetched):
            allowed = key.among(self._algorithms)
            for name in allowed:
                self._keys[name].append(replace(key, algorithms=allowed))
        self._remembered.cache_clear()

    def verify(self, token: str, *, user: str | None = None) -> Identity:
        """Check a token and read who it is for; with ``user`` it has to be that one's.

        Raises `AuthError`, without anything of the token in its message; an `UnknownKeyError`
        where it is worth waiting for `verify_anew`.
        """
        if not token:
            raise AuthError("no token", Refusal.NONE)
        if len(token) > MAX_TOKEN:
            raise AuthError(f"the token is longer than {MAX_TOKEN} bytes", Refusal.MALFORMED)
        if self._jwks is not None and self._jwks.keys is not self._fetched:
            self._sort_out()
        remembers = len(token) <= LONGEST_REMEMBERED
        identity = self._remembered(token) if remembers else self._identify(token)
        if identity.expires is not None and identity.expires + self._leeway <= time.time():
            # When it was read for the first time it had not.
            raise AuthError("token refused: it has expired", Refusal.EXPIRED)
        if user is not None and identity.user != user:
            raise AuthError("token refused: it is another user's", Refusal.USER)
        return identity

    async def verify_anew(self, token: str, *, user: str | None = None) -> Identity:
        """Do as `verify` once the key set was fetched anew, or could not be in some seconds."""
        if self._jwks is not None:
            await self._jwks.fetched_anew()
        return self.verify(token, user=user)

    def _identify(self, token: str) -> Identity:
        return self._claim_names.identity(self._claims(token))

    def _claims(self, token: str) -> Mapping[str, Any]:
        algorithm, kid = _header(token)
        candidates = [
            key for key in self._keys.get(algorithm, ()) if kid is None or key.kid in {None, kid}
        ]
        if algorithm not in self._keys:
            raise _refused(jwt.InvalidAlgorithmError())
        for key in candidates:
            try:
                return jwt.decode(
                    token,
                    key.material,
                    algorithms=list(key.algorithms),
                    issuer=self._issuer,
                    audience=self._audience,
                    leeway=self._leeway,
                    options=self._options,  # type: ignore[arg-type]  # a TypedDict there
                )
            except jwt.InvalidSignatureError:
                continue
            # The last four: claims that are no numbers, an infinite one, a nested bomb.
            except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
                raise _refused(error) from None
        if algorithm not in HMAC and self._jwks is not None and self._jwks.may_have(kid):
            raise UnknownKeyError("token refused: its key is not known", Refusal.UNKNOWN_KEY)
        if not candidates:
            raise AuthError("token refused: there is no key for it", Refusal.UNKNOWN_KEY)
        raise _refused(jwt.InvalidSignatureError())


def _header(token: str) -> tuple[str, str | None]:
    """Return a token's ``alg`` and ``kid``, which nobody has vouched for yet.

    They only pick among keys: with each of these PyJWT reads all of the token again, and holds
    it to the key's own algorithms. (Its `get_unverified_header` reads the claims as well: 14 us
    of 57 that a new token cost.)
    """
    encoded = token.partition(".")[0]
    try:
        header = json.loads(base64.urlsafe_b64decode(encoded + "=="))
        algorithm, kid = header.get("alg"), header.get("kid")
    except (ValueError, AttributeError, RecursionError) as error:
        raise _refused(error) from None
    if not isinstance(kid, str | None):
        raise _refused(jwt.DecodeError())
    return algorithm if isinstance(algorithm, str) else "", kid


def _refused(error: Exception) -> AuthError:
    """Return what to raise for what PyJWT raised."""
    if isinstance(error, jwt.MissingRequiredClaimError):
        # By a claim that is to be checked and is not there.
        reason = {"aud": Refusal.AUDIENCE, "iss": Refusal.ISSUER}.get(error.claim, Refusal.CLAIMS)
        return AuthError(f"token refused: it has no {error.claim}", reason)
    for kind, reason, words in _REFUSALS:
        if isinstance(error, kind):
            return AuthError(f"token refused: {words}", reason)
    return AuthError("token refused: it can't be read", Refusal.MALFORMED)
