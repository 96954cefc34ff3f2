"""The keys that tokens are verified with, each bound to the algorithms of its own kind.

Nothing in a token decides how a key is used (RFC 8725, section 3.1): a secret does for HS*, an
RSA key for RS* and PS*, an EC key for the ES* of its curve, an Ed25519 or Ed448 key for EdDSA.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate
from jwt.algorithms import HMACAlgorithm

from archibald_rt.errors import ConfigError

SHORTEST_RSA = 2048
"""How many bits an RSA key has at least (RFC 7518, section 3.3)."""

HMAC = ("HS256", "HS384", "HS512")
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
# By the kty of a key: an algorithm whose reader PyJWT is to use, whatever else the key says.
_READERS = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\n.*?\n-----END \1-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Key:
    """A key, and the ``algorithms`` it may be used with, here and nowhere else.

    With a ``kid`` it is only for tokens that name it, or name none.
    """

    material: Any = field(repr=False)
    algorithms: tuple[str, ...]
    kid: str | None = None

    def among(self, algorithms: Iterable[str]) -> tuple[str, ...]:
        """Return those of its algorithms that are among these."""
        allowed = frozenset(algorithms)
        return tuple(name for name in self.algorithms if name in allowed)


def secret_key(secret: str) -> Key:
    """Return the key that a shared secret is. Raises `ValueError` for what can't be one."""
    material = secret.encode()
    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(material)
    except jwt.InvalidKeyError:
        # Otherwise every token would be refused for it.
        raise ValueError("a public key is no secret") from None
    return Key(material, HMAC)


def public_key(material: Any, kid: str | None = None) -> Key:
    """Return a key of what `cryptography` has read.

    Raises `ValueError`, in one line, for one of no use here, or too weak.
    """
    if isinstance(material, RSAPublicKey):
        if material.key_size < SHORTEST_RSA:
            raise ValueError(f"an RSA key of {material.key_size} bits, expected {SHORTEST_RSA}")
        return Key(material, _RSA, kid)
    if isinstance(material, EllipticCurvePublicKey):
        if (name := _CURVES.get(material.curve.name)) is None:
            raise ValueError("an EC key, expected the curve P-256, P-384 or P-521")
        return Key(material, (name,), kid)
    if isinstance(material, Ed25519PublicKey | Ed448PublicKey):
        return Key(material, ("EdDSA",), kid)
    raise ValueError("a key of no kind that signs tokens, expected RSA, EC or Ed25519")


def keys_of_pem(text: str) -> tuple[Key, ...]:
    """Read the public keys and certificates of a PEM text, one block or several.

    Of a certificate only the key counts: neither its dates nor who issued it. Raises
    `ValueError`, in one line that repeats nothing of the text.
    """
    blocks = list(_BLOCK.finditer(text))
    if not blocks or _BLOCK.sub("", text).strip():
        raise ValueError("expected blocks of PEM, each from -----BEGIN … to -----END …")
    keys = []
    for number, block in enumerate(blocks, 1):
        which = f"number {number} of {len(blocks)} is " if len(blocks) > 1 else ""
        try:
            keys.append(public_key(_loaded(block[1], block[0].encode())))
        except ValueError as error:
            raise ValueError(f"{which}{error}") from None
    return tuple(keys)


def _loaded(label: str, block: bytes) -> Any:
    try:
        if label == "CERTIFICATE":
            return load_pem_x509_certificate(block).public_key()
        return load_pem_public_key(block)
    except Exception as error:
        # The library has many words for it, and not all are of one kind.
        raise ValueError("no public key or certificate that can be read") from error


def configured_keys(
    secrets: Sequence[str],
    pem: str | None,
    *,
    algorithms: Sequence[str],
    jwks: bool,
) -> tuple[Key, ...]:
    """Return the keys of the configuration; ``jwks`` says whether a key set is one besides.

    Raises `ConfigError`, in one line, where a key can't be used, or has none of the
    ``algorithms``, or one of these has no key.
    """
    try:
        shared = tuple(secret_key(secret) for secret in secrets)
    except ValueError as error:
        raise ConfigError(f"[auth] jwt_secret: {error}; set jwt_public_key") from None
    try:
        public = keys_of_pem(pem) if pem is not None else ()
    except ValueError as error:
        raise ConfigError(f"[auth] jwt_public_key: {error}") from None
    for number, key in enumerate(public, 1):
        if not key.among(algorithms):
            which = f" number {number} of {len(public)}" if len(public) > 1 else ""
            raise ConfigError(
                f"[auth] algorithms: none of {_listed(algorithms)} is for jwt_public_key{which};"
                f" expected {_listed(key.algorithms)}"
            )
    if shared and not any(name in HMAC for name in algorithms):
        raise ConfigError(
            f"[auth] algorithms: none of {_listed(algorithms)} is for jwt_secret; add HS256,"
            " or take the secret out"
        )
    if jwks and all(name in HMAC for name in algorithms):
        raise ConfigError(
            f"[auth] algorithms: none of {_listed(algorithms)} is for the keys of jwks_url;"
            " expected what they sign with, such as RS256 or ES256"
        )
    for name in algorithms:
        if not any(name in key.algorithms for key in shared + public) and (
            name in HMAC or not jwks
        ):
            wanted = "jwt_secret" if name in HMAC else "jwt_public_key or jwks_url"
            raise ConfigError(
                f"[auth] algorithms: {name} has no key; set a {wanted} for it, or take it out"
            )
    return shared + public


def key_of_jwk(jwk: Mapping[str, Any]) -> Key:
    """Return the key of a member of a key set (RFC 7517, section 4).

    Raises `ValueError` for one that is of no use here: not for signatures, of a kind that is
    not known, too weak, or with the private part in it.
    """
    reader = _READERS.get(str(jwk.get("kty")))
    if reader is None:
        # A secret that is published is none.
        raise ValueError("not of a kind that has a public part")
    operations = jwk.get("key_ops", ["verify"])
    verifies = isinstance(operations, list) and "verify" in operations
    if jwk.get("use", "sig") != "sig" or not verifies:
        raise ValueError("not for verifying")
    kid, algorithm = jwk.get("kid"), jwk.get("alg")
    if not isinstance(kid, str | None):
        raise ValueError("its kid is no text")  # noqa: TRY004 - a fault of a document
    try:
        material = jwt.PyJWK(dict(jwk), reader).key
    except Exception as error:
        # It has its parsers read what anybody may have written.
        raise ValueError("not to be read") from error
    # Of a private key this makes none.
    key = public_key(material, kid)
    if algorithm is None:
        return key
    if algorithm not in key.algorithms:
        raise ValueError("its alg is not of its kind")
    return Key(key.material, (algorithm,), kid)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
