"""Keys, each bound to the algorithms of its own kind: ``auth.keys``."""

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm

import issuer
from archibald_rt.auth import TokenVerifier, configured_keys
from archibald_rt.auth.keys import (
    HMAC,
    Key,
    key_of_jwk,
    keys_of_pem,
    secret_key,
)
from archibald_rt.errors import AuthError, ConfigError, Refusal
from issuer import jwk, pem, private_key, signed
from support import SECRET, token

RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
KINDS = {
    "rsa2048": RSA,
    "P-256": ("ES256",),
    "P-384": ("ES384",),
    "P-521": ("ES512",),
    "Ed25519": ("EdDSA",),
    "Ed448": ("EdDSA",),
}
EVERY = (*HMAC, *RSA, "ES256", "ES384", "ES512", "EdDSA")


def refusal(text: str, *keys: Key, algorithms: tuple[str, ...] = EVERY) -> Refusal | None:
    """Return why these keys refuse a token, None if they accept it."""
    try:
        TokenVerifier(keys, algorithms=algorithms).verify(text)
    except AuthError as error:
        return error.reason
    return None


@pytest.mark.parametrize(("kind", "algorithms"), KINDS.items())
def test_a_public_key_verifies_by_every_algorithm_of_its_kind_and_no_other(
    kind: str, algorithms: tuple[str, ...]
) -> None:
    (key,) = keys_of_pem(pem(kind))
    assert key.algorithms == algorithms
    for name in algorithms:
        assert refusal(signed(kind, algorithm=name), key) is None
        others = tuple(other for other in EVERY if other != name)
        assert refusal(signed(kind, algorithm=name), key, algorithms=others) is Refusal.ALGORITHM
    assert refusal(token("u"), key) is Refusal.UNKNOWN_KEY


@pytest.mark.parametrize("kind", KINDS)
def test_another_key_of_the_same_kind_refuses_the_signature(kind: str) -> None:
    (key,) = keys_of_pem(pem(kind))
    assert refusal(signed(kind, number=1), key) is Refusal.SIGNATURE


def signed_with_text(secret: str, algorithm: str) -> str:
    """Sign with a text as secret, as no library lets one do with a public key."""
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"alg": algorithm, "typ": "JWT"}, {"userId": "u"})
    ]
    digest = hmac.new(secret.encode(), b".".join(parts), hashlib.sha256).digest()
    return b".".join([*parts, base64.urlsafe_b64encode(digest).rstrip(b"=")]).decode()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("and_a_secret", [False, True])
def test_a_token_signed_with_a_public_key_as_secret_is_refused(
    kind: str, *, and_a_secret: bool
) -> None:
    keys = [*keys_of_pem(pem(kind)), *([secret_key(SECRET)] if and_a_secret else [])]
    for text in (pem(kind), pem(kind).strip(), pem(kind).replace("\n", "\r\n")):
        forged = signed_with_text(text, "HS256")
        assert refusal(forged, *keys) in {Refusal.SIGNATURE, Refusal.UNKNOWN_KEY}
        # Nor by claiming another algorithm for that signature.
        for algorithm in KINDS[kind]:
            assert refusal(signed_with_text(text, algorithm), *keys) is Refusal.SIGNATURE


def test_what_would_make_a_public_key_a_secret_is_no_secret() -> None:
    with pytest.raises(ValueError, match="no secret"):
        secret_key(pem("rsa2048"))


def test_secrets_and_public_keys_stand_beside_each_other() -> None:
    keys = configured_keys(
        [SECRET],
        pem("rsa2048") + pem("P-256"),
        algorithms=("HS256", "RS256", "ES256"),
        jwks=False,
    )
    for good in (token("u"), signed("rsa2048"), signed("P-256"), signed("P-256", kid="any")):
        assert refusal(good, *keys) is None


def test_a_certificate_is_as_good_as_its_key() -> None:
    (key,) = keys_of_pem(issuer.certificate("P-256"))
    assert refusal(signed("P-256"), key) is None


def test_of_several_blocks_the_one_that_is_wrong_is_named() -> None:
    assert len(keys_of_pem(f"{pem('P-256')}\n{pem('P-256', 1)}")) == 2
    with pytest.raises(ValueError, match="number 2 of 2 is an RSA key of 1024 bits"):
        keys_of_pem(pem("P-256") + pem("rsa1024"))


def of_no_version(certificate: str) -> str:
    """Return a certificate that says of itself to be of a version there is none of."""
    label, *lines, end = certificate.strip().splitlines()
    der = bytearray(base64.b64decode("".join(lines)))
    # [0] EXPLICIT INTEGER 2, which stands for version 3 (RFC 5280, section 4.1).
    der[der.index(b"\xa0\x03\x02\x01\x02") + 4] = 9
    return "\n".join([label, base64.encodebytes(der).decode().strip(), end])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a key",
        "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----",
        "-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----",
        "-----BEGIN CERTIFICATE-----\nMCow\n-----END CERTIFICATE-----",
        pem("P-256").replace("PUBLIC KEY", "CERTIFICATE"),
        pem("P-256") + "and more",
        pem("P-256").replace("END PUBLIC", "END SECRET"),
        issuer.private_pem("P-256"),
        pem("secp256k1"),
        pem("rsa1024"),
        of_no_version(issuer.certificate("P-256")),
    ],
    ids=range(12),
)
def test_what_is_no_public_key_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configured_keys([], text, algorithms=("RS256", "ES256"), jwks=False)
    line = str(caught.value)
    assert line.startswith("[auth] jwt_public_key: ")
    assert line.isprintable()
    assert "MCow" not in line


@pytest.mark.parametrize(
    ("secrets", "text", "algorithms", "jwks", "words"),
    [
        ([], pem("rsa2048"), "HS256", False, "jwt_public_key; expected RS256"),
        ([], pem("P-256"), "RS256 ES384", False, "jwt_public_key; expected ES256"),
        ([], pem("P-256") + pem("P-384"), "ES256", False, "number 2 of 2; expected ES384"),
        ([SECRET], None, "RS256", False, "is for jwt_secret"),
        ([SECRET], pem("rsa2048"), "RS256", False, "is for jwt_secret"),
        ([SECRET], None, "HS256 RS256", False, "RS256 has no key; set a jwt_public_key"),
        ([], pem("rsa2048"), "HS256 RS256", False, "HS256 has no key; set a jwt_secret"),
        ([], None, "HS256", True, "jwks_url; expected"),
        ([], None, "HS512 RS256", True, "HS512 has no key"),
        ([SECRET], None, "HS256", True, "jwks_url; expected"),
        ([], pem("Ed25519"), "EdDSA ES256", False, "ES256 has no key"),
    ],
)
def test_a_key_without_an_algorithm_or_an_algorithm_without_a_key_is_refused(
    secrets: list[str], text: str | None, algorithms: str, *, jwks: bool, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        configured_keys(secrets, text, algorithms=algorithms.split(), jwks=jwks)
    line = str(caught.value)
    assert line.startswith("[auth] algorithms: ")
    assert words in line
    assert line.isprintable()


@pytest.mark.parametrize(
    ("secrets", "text", "algorithms", "jwks"),
    [
        ([SECRET], None, "HS256 HS384", False),
        ([SECRET], None, "HS256 RS256", True),
        ([], None, "ES256 EdDSA", True),
        ([], pem("rsa2048"), "RS256 PS256 ES256", True),
        ([SECRET], pem("Ed448"), "HS512 EdDSA", False),
    ],
)
def test_what_has_each_other_is_accepted(
    secrets: list[str], text: str | None, algorithms: str, *, jwks: bool
) -> None:
    keys = configured_keys(secrets, text, algorithms=algorithms.split(), jwks=jwks)
    assert len(keys) == len(secrets) + (text is not None)


# Members of a key set


@pytest.mark.parametrize(("kind", "algorithms"), KINDS.items())
def test_a_member_of_a_key_set_is_bound_to_its_kind_and_its_alg(
    kind: str, algorithms: tuple[str, ...]
) -> None:
    assert key_of_jwk(jwk(kind, kid="a")).algorithms == algorithms
    assert key_of_jwk(jwk(kind, kid="a")).kid == "a"
    for name in algorithms:
        key = key_of_jwk(jwk(kind, alg=name, use="sig", key_ops=["verify"]))
        assert key.algorithms == (name,)
        assert refusal(signed(kind, algorithm=name), key) is None


def test_a_key_with_an_alg_is_for_that_one_alone() -> None:
    key = key_of_jwk(jwk("rsa2048", alg="RS256"))
    for name in RSA[1:]:
        assert refusal(signed("rsa2048", algorithm=name), key) is Refusal.UNKNOWN_KEY


@pytest.mark.parametrize(
    "member",
    [
        {},
        {"kty": "oct", "k": base64.urlsafe_b64encode(SECRET.encode()).decode()},
        {"kty": "XYZ"},
        {"kty": ["RSA"]},
        {"kty": "RSA"},
        {"kty": "EC", "crv": "P-256"},
        {"kty": "OKP", "crv": "X25519", "x": "AAAA"},
        {"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"},
        {"kty": "RSA", "n": 5, "e": None},
        jwk("rsa1024"),
        jwk("secp256k1"),
        jwk("P-256", use="enc"),
        jwk("P-256", use=5),
        jwk("P-256", key_ops=["encrypt"]),
        jwk("P-256", key_ops=5),
        jwk("P-256", alg="RS256"),
        jwk("P-256", alg="HS256"),
        jwk("P-256", alg="none"),
        jwk("P-256", alg=["ES256"]),
        jwk("P-256", kid=5),  # type: ignore[arg-type]  # as an issuer might
        {**jwk("P-256"), "d": "AAAA"},
        ECAlgorithm.to_jwk(private_key("P-256"), as_dict=True),
    ],
    ids=range(22),
)
def test_a_member_that_is_of_no_use_is_told_so(member: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^[a-z]"):
        key_of_jwk(member)


_VALUES = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text(), max_size=2)
_MEMBERS = ["kty", "crv", "x", "y", "n", "e", "use", "alg", "kid", "key_ops"]


@given(
    st.sampled_from([*KINDS, None]),
    st.dictionaries(st.sampled_from(_MEMBERS), _VALUES | st.sampled_from(["RSA", "EC", "OKP"])),
)
def test_whatever_stands_in_a_key_set_is_a_key_or_told_so(
    kind: str | None, members: dict[str, Any]
) -> None:
    member = {**(jwk(kind) if kind else {}), **members}
    try:
        key = key_of_jwk(member)
    except ValueError:
        return
    assert key.algorithms


def test_a_key_does_not_show_what_it_is() -> None:
    assert SECRET not in repr(secret_key(SECRET))


def test_a_key_with_a_name_is_for_tokens_that_name_it_or_none() -> None:
    key = key_of_jwk(jwk("P-256", kid="a"))
    assert refusal(signed("P-256", kid="a"), key) is None
    assert refusal(signed("P-256"), key) is None
    assert refusal(signed("P-256", kid="b"), key) is Refusal.UNKNOWN_KEY


def test_pyjwt_still_signs_what_these_tests_take_for_signed() -> None:
    assert jwt.get_unverified_header(signed("P-256", kid="a")) == {
        "alg": "ES256",
        "typ": "JWT",
        "kid": "a",
    }
