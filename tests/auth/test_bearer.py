"""What callers of the internal listener present: ``auth.bearer``."""

import pytest

from archibald_rt.auth import BearerTokens, bearer_token


def test_any_of_the_emit_tokens_is_accepted_and_nothing_else() -> None:
    tokens = BearerTokens(["first-token", "zweites-tök"])
    assert tokens.accept(b"first-token")
    assert tokens.accept("zweites-tök".encode())
    for wrong in (
        b"",
        b"first-toke",
        b"first-token ",
        b"First-token",
        "zweites-tök".encode("latin-1"),
        b"\xff\x00",
        b"first-tokenzweites",
    ):
        assert not tokens.accept(wrong)


def test_tokens_that_were_replaced_are_accepted_no_more() -> None:
    tokens = BearerTokens(["first-token", "second-token"])
    tokens.use(["second-token", "third-token"])
    assert not tokens.accept(b"first-token")
    assert tokens.accept(b"second-token")
    assert tokens.accept(b"third-token")


def test_without_emit_tokens_nothing_is_accepted() -> None:
    assert not BearerTokens([]).accept(b"")
    assert not BearerTokens([]).accept(b"x")


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("Bearer abc", "abc"),
        ("bearer abc", "abc"),
        ("BEARER   abc  ", "abc"),
        ("Bearer a.b-c_d~+/=", "a.b-c_d~+/="),
        ("", ""),
        ("abc", ""),
        ("Bearer", ""),
        ("Bearer ", ""),
        ("Bearerabc", ""),
        ("Bearer a b", ""),
        ("Basic abc", ""),
        ("xBearer abc", ""),
        ("Bearer abc\nX: y", ""),
        ("Bearer\tabc", ""),
    ],
)
def test_the_token_of_a_header_is_found(header: str, found: str) -> None:
    assert bearer_token(header) == found
