"""Users' tokens, verified by keys that are there: ``auth.tokens`` and ``auth.identity``."""

import base64
import contextlib
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from archibald_rt.auth import (
    LONGEST_REMEMBERED,
    MAX_TOKEN,
    ClaimNames,
    Identity,
    TokenVerifier,
)
from archibald_rt.auth.keys import secret_key
from archibald_rt.errors import AuthError, Refusal
from support import SECRET, token

OTHER_SECRET = "another-secret-for-tests-of-thirty-two-bytes"
HEADER = b'{"alg":"HS256","typ":"JWT"}'


def signed(payload: bytes, header: bytes = HEADER, secret: str = SECRET) -> str:
    """Sign bytes that no library would."""
    parts = [base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, payload)]
    digest = hmac.new(secret.encode(), b".".join(parts), hashlib.sha256).digest()
    return b".".join([*parts, base64.urlsafe_b64encode(digest).rstrip(b"=")]).decode()


def verifier(*secrets: str, **options: object) -> TokenVerifier:
    keys = [secret_key(secret) for secret in secrets or (SECRET,)]
    return TokenVerifier(keys, **options)  # type: ignore[arg-type]  # each test knows its own


def refused(text: str, by: TokenVerifier | None = None, *, user: str | None = None) -> AuthError:
    with pytest.raises(AuthError) as caught:
        (by or verifier()).verify(text, user=user)
    message = str(caught.value)
    assert message.isprintable()
    # No part of a token is repeated, whatever a library says of it.
    assert not any(part in message for part in text.split(".") if len(part) > 5)
    return caught.value


def refusal(text: str, by: TokenVerifier | None = None, *, user: str | None = None) -> Refusal:
    reason = refused(text, by, user=user).reason
    assert reason is not None
    return reason


def of_length(length: int) -> str:
    """Return a good token of a length, as near below as Base64 allows."""
    made = ""
    for padding in range(length):
        candidate = signed(b'{"userId":"u","x":"%s"}' % (b"x" * padding))
        if len(candidate) > length:
            return made
        made = candidate
    return made


def test_a_token_names_its_user_and_nothing_more() -> None:
    assert verifier().verify(token("user-1")) == Identity("user-1", admin=False, expires=None)


def test_a_token_says_when_it_was_issued_and_which_one_it_is() -> None:
    identity = verifier().verify(token("user-1", iat=1_700_000_000, jti="a-1"))
    assert (identity.issued, identity.token_id) == (1_700_000_000.0, "a-1")


@pytest.mark.parametrize(
    ("iat", "issued"),
    [
        (1_700_000_000.5, 1_700_000_000.5),
        (-0.5, -0.5),
        ("1700000000", 1_700_000_000.0),
        (-(10**400), -253402300799.0),
        ("-" + "9" * 400, -253402300799.0),
    ],
)
def test_the_fraction_of_a_second_counts_in_when_a_token_was_issued(
    iat: object, issued: float
) -> None:
    # A revocation may lie within the same second.
    assert verifier().verify(token("user-1", iat=iat)).issued == issued


@pytest.mark.parametrize(
    ("claims", "user"),
    [
        ({"userId": "a", "sub": "b"}, "a"),
        ({"sub": "b"}, "b"),
        ({"userId": 17}, "17"),
        ({"userId": -5}, "-5"),
        ({"sub": 17}, "17"),
        ({"userId": 10**255}, str(10**255)),
        ({"userId": "é"}, "é"),
        ({"userId": "e\u0301"}, "e\u0301"),
        ({"userId": " a "}, " a "),
        ({"userId": "*"}, "*"),
        ({"userId": "\U0001f600" * 256}, "\U0001f600" * 256),
    ],
)
def test_the_first_claim_that_is_present_names_the_user(
    claims: dict[str, object], user: str
) -> None:
    assert verifier().verify(signed(json.dumps(claims).encode())).user == user


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"user": "a"},
        {"userId": None, "sub": "b"},
        {"userId": "", "sub": "b"},
        {"userId": True},
        {"userId": 1.0},
        {"userId": ["a"]},
        {"userId": {"a": 1}},
        {"userId": "a" * 257},
        {"userId": 10**256},
        {"userId": "a\n"},
        {"userId": "\x00"},
        {"userId": "\x7f"},
        {"userId": "\x85"},
        {"userId": "\ud800"},
    ],
)
def test_a_token_without_a_user_id_is_refused(claims: dict[str, object]) -> None:
    assert refusal(signed(json.dumps(claims).encode())) is Refusal.CLAIMS


def test_the_claims_that_name_the_user_can_be_chosen() -> None:
    chosen = verifier(claim_names=ClaimNames(("uid",)))
    assert chosen.verify(signed(b'{"uid":"a","userId":"b"}')).user == "a"
    assert "uid" in str(refused(token("b"), chosen))


@pytest.mark.parametrize(
    ("claims", "admin"),
    [
        ({}, False),
        ({"role": "admin"}, True),
        ({"role": ["user", "admin"]}, True),
        ({"role": []}, False),
        ({"role": "Admin"}, False),
        ({"role": "administrator"}, False),
        ({"role": {"admin": True}}, False),
        ({"role": "user,admin"}, False),
        ({"role": True}, False),
        ({"role": None}, False),
        ({"roles": "admin"}, False),
        ({"admin": True}, False),
    ],
)
def test_an_admin_is_one_whose_role_is_or_holds_it(claims: dict[str, Any], *, admin: bool) -> None:
    assert verifier().verify(token("u", **claims)).admin is admin


def test_the_claim_and_the_name_of_the_role_can_be_chosen() -> None:
    chosen = verifier(claim_names=ClaimNames(role="groups", admin="ops"))
    assert chosen.verify(token("u", groups=["ops"])).admin
    assert not chosen.verify(token("u", role="admin", groups="admin")).admin


def test_a_token_of_another_secret_is_refused() -> None:
    assert refusal(token("u", secret=OTHER_SECRET)) is Refusal.SIGNATURE


def test_any_of_several_secrets_will_do() -> None:
    rotating = verifier(OTHER_SECRET, SECRET)
    for secret in (OTHER_SECRET, SECRET):
        assert rotating.verify(token("u", secret=secret)).user == "u"
    refusal(token("u", secret="a third secret of thirty-two bytes or more"), rotating)


def test_without_a_secret_every_token_is_refused() -> None:
    assert refusal(token("u"), TokenVerifier([])) is Refusal.UNKNOWN_KEY


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_token_that_was_tampered_with_is_refused(part: int) -> None:
    parts = token("user-1").split(".")
    parts[part] = parts[part][:-3] + ("AAA" if parts[part][-3:] != "AAA" else "BBB")
    refusal(".".join(parts))


@pytest.mark.parametrize("algorithm", ["none", "None", "HS512", "HS384", "RS256", ""])
def test_only_the_configured_algorithms_are_taken(algorithm: str) -> None:
    header = json.dumps({"alg": algorithm}).encode()
    for text in (signed(b'{"userId":"u"}', header), signed(b'{"userId":"u"}', b'{"typ":"JWT"}')):
        assert refusal(text) is Refusal.ALGORITHM
        assert refusal(text.rpartition(".")[0] + ".") is Refusal.ALGORITHM


def test_a_configured_algorithm_is_taken() -> None:
    secret = "s" * 64
    text = jwt.encode({"userId": "u"}, secret, algorithm="HS512")
    assert verifier(secret, algorithms=["HS256", "HS512"]).verify(text).user == "u"


def test_a_secret_is_never_taken_for_a_public_key() -> None:
    assert refusal(token("u"), verifier(algorithms=["RS256"])) is Refusal.ALGORITHM


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"aud": "a", "iss": "i"}, None),
        ({"aud": ["a", "b"], "iss": "i"}, None),
        ({"aud": "b", "iss": "i"}, Refusal.AUDIENCE),
        ({"aud": "a", "iss": "j"}, Refusal.ISSUER),
        ({"aud": "a"}, Refusal.ISSUER),
        ({"iss": "i"}, Refusal.AUDIENCE),
        ({"aud": 5, "iss": "i"}, Refusal.AUDIENCE),
        ({"aud": "a", "iss": ["i"]}, Refusal.ISSUER),
    ],
)
def test_audience_and_issuer_are_checked_where_they_are_configured(
    claims: dict[str, object], reason: Refusal | None
) -> None:
    strict = verifier(audience="a", issuer="i")
    text = signed(json.dumps({"userId": "u", **claims}).encode())
    if reason is None:
        assert strict.verify(text).user == "u"
    else:
        assert refusal(text, strict) is reason
    # Where they are not, whatever a token says of them is nobody's business.
    assert verifier().verify(text).user == "u"


def test_a_token_expires_at_its_time_and_the_leeway() -> None:
    now = time.time()
    assert verifier(leeway=30).verify(token("u", exp=int(now) - 20)).expires == int(now) - 20
    assert refusal(token("u", exp=int(now) - 40), verifier(leeway=30)) is Refusal.EXPIRED
    assert refusal(token("u", exp=int(now) - 2), verifier(leeway=0)) is Refusal.EXPIRED


def test_a_token_that_is_not_valid_yet_is_refused() -> None:
    later = int(time.time()) + 60
    assert refusal(token("u", nbf=later)) is Refusal.NOT_YET_VALID
    assert refusal(token("u", iat=later)) is Refusal.NOT_YET_VALID
    assert verifier(leeway=120).verify(token("u", nbf=later, iat=later)).user == "u"


def test_a_token_that_was_accepted_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    decode = jwt.decode

    def counted(text: str, *args: Any, **options: Any) -> Any:
        read.append(text)
        return decode(text, *args, **options)

    monkeypatch.setattr(jwt, "decode", counted)
    by = verifier()
    good, large = token("user-1"), of_length(LONGEST_REMEMBERED + 100)
    for _ in range(3):
        assert by.verify(good) == Identity("user-1", admin=False, expires=None)
        by.verify(large)
        refusal("no token at all", by)
    assert read == [good, large] + [large] * 2
    # What is remembered is whose it is, not that anybody may use it.
    assert refusal(good, by, user="user-2") is Refusal.USER


def test_what_is_remembered_of_a_token_expires_with_it() -> None:
    by, now = verifier(leeway=0.0), time.time
    begins, ends = int(now()) + 2, int(now()) + 4
    text = token("u", nbf=begins, exp=ends)
    said = []
    while now() < ends + 0.2:
        asked = now()
        try:
            answer = by.verify(text).user
        except AuthError as error:
            answer = str(error)
        said.append((asked, answer, now()))
    # Judged by the clock around each call, so that a pause of the machine proves nothing wrong.
    assert {answer for _, answer, answered in said if answered < begins} == {
        "token refused: it is not valid yet"
    }
    assert {answer for asked, answer, answered in said if begins <= asked and answered < ends} == {
        "u"
    }
    assert {answer for asked, answer, _ in said if asked >= ends} == {
        "token refused: it has expired"
    }


def test_a_token_needs_an_expiry_only_where_it_is_required() -> None:
    strict = verifier(require_exp=True)
    assert str(refused(token("u"), strict)) == "token refused: it has no exp"
    assert refusal(signed(b'{"userId":"u","exp":null}'), strict) is Refusal.CLAIMS
    assert strict.verify(token("u", exp=int(time.time()) + 60)).expires is not None


@pytest.mark.parametrize(
    ("written", "expires"),
    [
        (b"4102444800", 4102444800.0),
        (b"4102444800.75", 4102444800.0),
        (b'"4102444800"', 4102444800.0),
        (b"9" * 400, 253402300799.0),
        (b"1e300", 253402300799.0),
    ],
)
def test_an_expiry_is_read_and_kept_within_what_can_be_written(
    written: bytes, expires: float
) -> None:
    assert verifier().verify(signed(b'{"userId":"u","exp":' + written + b"}")).expires == expires


@pytest.mark.parametrize("name", [b"exp", b"iat", b"nbf"])
@pytest.mark.parametrize("written", [b"null", b"[]", b"{}", b'"x"', b"NaN", b"1e999", b"-1e999"])
def test_a_time_that_is_no_number_is_refused(name: bytes, written: bytes) -> None:
    assert refusal(signed(b'{"userId":"u","' + name + b'":' + written + b"}")) in {
        Refusal.CLAIMS,
        Refusal.MALFORMED,
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "x" * 100,
        "\ud800.\ud800.\ud800",
        "é.é.é",
        "a\x00.b.c",
        signed(b"[]"),
        signed(b"null"),
        signed(b"x"),
        signed(b"\xff\xfe"),
        signed(b'{"userId":' + b"9" * 5000 + b"}"),
        signed(b'{"userId":"u"}', b"[]"),
        signed(b'{"userId":"u"}', b'{"alg":["HS256"]}'),
        signed(b'{"userId":"u"}', b'{"alg":"HS256","kid":5}'),
        signed(b'{"userId":"u"}', b'{"alg":"HS256","crit":["x"]}'),
        signed(b'{"userId":"u"}', b'{"alg":"HS256","b64":false}'),
        token("u") + ".x",
        "Bearer " + token("u"),
    ],
    ids=range(21),
)
def test_what_is_no_token_is_refused_and_nothing_else(text: str) -> None:
    reason = Refusal.NONE if not text else Refusal.MALFORMED
    assert refusal(text) in {reason, Refusal.ALGORITHM, Refusal.CLAIMS}


@given(st.text() | st.binary().map(signed) | st.binary().map(lambda x: signed(b"{}", x)))
@example("eyJ.eyJ.eyJ")
def test_whatever_comes_is_refused_by_one_kind_of_error(text: str) -> None:
    with pytest.raises(AuthError):
        verifier().verify(text)


def test_a_token_of_8_kib_is_read_and_a_longer_one_is_not() -> None:
    longest = of_length(8192)
    assert MAX_TOKEN == len(longest) == 8192
    assert verifier().verify(longest).user == "u"
    # The next one that can be written.
    longer = of_length(8194)
    assert len(longer) > 8192
    assert "longer" in str(refused(longer))
    assert refusal(longer) is Refusal.MALFORMED


def test_a_new_token_has_to_be_of_the_same_user() -> None:
    assert verifier().verify(token("u"), user="u").user == "u"
    assert refusal(token("U"), user="u") is Refusal.USER
    assert refusal(token("e\u0301"), user="\u00e9") is Refusal.USER


def test_claims_nested_as_deep_as_a_token_can_be_are_no_crash() -> None:
    deep = signed(b'{"userId":"u","x":' + b"[" * 2000 + b"]" * 2000 + b"}")
    # How deep a decoder goes depends on Python's version; it reads such claims or refuses them.
    with contextlib.suppress(AuthError):
        assert verifier().verify(deep).user == "u"
