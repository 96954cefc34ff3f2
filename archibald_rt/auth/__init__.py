"""Who may connect and who may emit.

`TokenVerifier` reads users' tokens with the keys of `keys` and `jwks`; `BearerTokens` are what
back ends present.
"""

from archibald_rt.auth.bearer import BearerTokens, bearer_token
from archibald_rt.auth.identity import ClaimNames, Identity
from archibald_rt.auth.jwks import Jwks
from archibald_rt.auth.keys import Key, configured_keys
from archibald_rt.auth.tokens import LONGEST_REMEMBERED, MAX_TOKEN, REMEMBERED, TokenVerifier

__all__ = [
    "LONGEST_REMEMBERED",
    "MAX_TOKEN",
    "REMEMBERED",
    "BearerTokens",
    "ClaimNames",
    "Identity",
    "Jwks",
    "Key",
    "TokenVerifier",
    "bearer_token",
    "configured_keys",
]
