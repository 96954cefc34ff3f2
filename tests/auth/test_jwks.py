"""The issuer's key set, from a real server of it: ``auth.jwks``."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from archibald_rt.auth import Jwks, TokenVerifier, jwks
from archibald_rt.auth.keys import keys_of_pem
from archibald_rt.errors import AuthError, Refusal, UnknownKeyError
from archibald_rt.fetch import LARGEST, fetching
from issuer import Issuer, issuing, jwk, pem, signed
from support import eventually

ALGORITHMS = ("ES256", "RS256")
LONG = 3600.0


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with issuing(jwk("P-256", kid="a")) as made:
        yield made


@asynccontextmanager
async def keeping(
    url: str | None, *, max_age: float = LONG, within: float = 5.0
) -> AsyncIterator[Jwks]:
    """Keep a key set up to date for the length of a block."""
    async with fetching(within=within) as fetch:
        kept = Jwks(fetch, url, max_age=max_age)
        task = asyncio.create_task(kept.run())
        try:
            yield kept
            assert not task.done(), "it has failed"
        finally:
            task.cancel()
            await asyncio.wait([task])


def verifier(kept: Jwks) -> TokenVerifier:
    return TokenVerifier([], kept, algorithms=ALGORITHMS)


def refusal(by: TokenVerifier, text: str) -> Refusal | None:
    try:
        by.verify(text)
    except AuthError as error:
        return error.reason
    return None


def names(kept: Jwks) -> list[str | None]:
    return [key.kid for key in kept.keys]


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have pauses that a test can wait for."""
    monkeypatch.setattr(jwks, "ASKED_EVERY", 0.05)
    monkeypatch.setattr(jwks, "RETRY", 0.05)


@pytest.mark.gen_test
async def test_a_token_of_a_key_in_the_set_is_good_and_a_foreign_one_is_not(
    issuer: Issuer,
) -> None:
    async with keeping(issuer.url) as kept:
        by = verifier(kept)
        assert (await by.verify_anew(signed("P-256", kid="a"))).user == "u"
        assert refusal(by, signed("P-256")) is None
        assert refusal(by, signed("P-256", number=1, kid="a")) is Refusal.SIGNATURE
        assert refusal(by, signed("rsa2048", kid="a")) is Refusal.UNKNOWN_KEY
        with pytest.raises(UnknownKeyError):
            by.verify(signed("P-256", kid="b"))


@pytest.mark.gen_test
async def test_before_the_first_answer_a_token_waits_for_it(issuer: Issuer) -> None:
    issuer.stall()
    async with keeping(issuer.url) as kept:
        by = verifier(kept)
        with pytest.raises(UnknownKeyError):
            by.verify(signed("P-256"))
        waiting = [
            asyncio.create_task(by.verify_anew(signed("P-256", kid=kid))) for kid in (None, "a")
        ]
        await eventually(lambda: issuer.requests == 1)
        issuer.let_go.set()
        assert [identity.user for identity in await asyncio.gather(*waiting)] == ["u", "u"]
        assert issuer.requests == 1


@pytest.mark.gen_test
async def test_a_key_that_was_published_later_is_found_by_the_first_token_that_names_it(
    issuer: Issuer,
) -> None:
    async with keeping(issuer.url) as kept:
        by = verifier(kept)
        await by.verify_anew(signed("P-256", kid="a"))
        issuer.publish(jwk("P-256", kid="a"), jwk("P-256", 1, kid="b"))
        assert (await by.verify_anew(signed("P-256", number=1, kid="b"))).user == "u"
        assert names(kept) == ["a", "b"]


@pytest.mark.usefixtures("_hasty")
@pytest.mark.gen_test
async def test_a_key_that_is_gone_verifies_nothing_any_more_remembered_or_not(
    issuer: Issuer,
) -> None:
    issuer.publish(jwk("P-256", kid="a"), jwk("P-256", 1, kid="b"))
    async with keeping(issuer.url) as kept:
        by = verifier(kept)
        first, second = signed("P-256", kid="a"), signed("P-256", number=1, kid="b")
        await by.verify_anew(first)
        assert refusal(by, second) is None
        issuer.publish(jwk("P-256", 1, kid="b"))
        kept.use(issuer.url)
        await eventually(lambda: names(kept) == ["b"])
        assert refusal(by, first) is Refusal.UNKNOWN_KEY
        assert refusal(by, second) is None


@pytest.mark.usefixtures("_hasty")
@pytest.mark.gen_test
async def test_a_key_that_was_replaced_under_its_name_verifies_nothing_any_more(
    issuer: Issuer,
) -> None:
    async with keeping(issuer.url, max_age=0.05) as kept:
        by = verifier(kept)
        text = signed("P-256", kid="a")
        await by.verify_anew(text)
        issuer.publish(jwk("P-256", 1, kid="a"))
        await eventually(lambda: refusal(by, text) is Refusal.SIGNATURE)


@pytest.mark.gen_test
async def test_a_set_is_fetched_again_at_its_age_and_stays_the_same_tuple_if_it_is_the_same(
    issuer: Issuer,
) -> None:
    async with keeping(issuer.url, max_age=0.02) as kept:
        await eventually(lambda: kept.keys)
        keys = kept.keys
        await eventually(lambda: issuer.requests > 3)
        assert kept.keys is keys


@pytest.mark.gen_test
async def test_tokens_of_strangers_become_a_request_now_and_then_and_no_more(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "ASKED_EVERY", 0.3)
    async with keeping(issuer.url) as kept:
        by = verifier(kept)
        await eventually(lambda: kept.keys)
        loop = asyncio.get_running_loop()
        before, began = issuer.requests, loop.time()

        async def stranger(number: int) -> None:
            with pytest.raises(UnknownKeyError):
                await by.verify_anew(signed("P-256", number=2, kid=f"made up {number}"))

        for round_ in range(5):
            await asyncio.gather(*(stranger(100 * round_ + number) for number in range(100)))
        # Each round waits for the next fetch; between two lies the pause.
        assert issuer.requests - before == 5
        assert loop.time() - began >= 4 * 0.3


@pytest.mark.gen_test
async def test_no_more_tokens_wait_at_once_than_may(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "WAITING", 3)
    issuer.stall()
    async with keeping(issuer.url) as kept:
        by = verifier(kept)
        waiting = [asyncio.create_task(by.verify_anew(signed("P-256"))) for _ in range(3)]
        await eventually(lambda: issuer.requests == 1)
        with pytest.raises(UnknownKeyError):
            await asyncio.wait_for(by.verify_anew(signed("P-256")), 1)
        assert not any(task.done() for task in waiting)
        issuer.let_go.set()
        await asyncio.gather(*waiting)


@pytest.mark.gen_test
async def test_a_token_waits_no_longer_than_its_patience(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "PATIENCE", 0.05)
    issuer.stall()
    async with keeping(issuer.url) as kept:
        with pytest.raises(UnknownKeyError):
            await verifier(kept).verify_anew(signed("P-256", kid="a"))
        issuer.let_go.set()


@pytest.mark.gen_test
async def test_whoever_waits_is_let_go_at_the_end(issuer: Issuer) -> None:
    issuer.stall()
    async with keeping(issuer.url) as kept:
        waiting = asyncio.create_task(kept.fetched_anew())
        await eventually(lambda: issuer.requests == 1)
        kept.close()
        await asyncio.wait_for(waiting, 20)
        await asyncio.wait_for(kept.fetched_anew(), 20)
        issuer.let_go.set()


def breaking(issuer: Issuer, how: str) -> None:
    if how == "slow":
        issuer.stall()
    elif how == "down":
        # What it announces doesn't come.
        issuer.headers["Content-Length"] = "100000"
    elif how == "error":
        issuer.status = 503
    elif how == "elsewhere":
        issuer.status, issuer.headers["Location"] = 302, issuer.url
    elif how == "huge":
        issuer.document += b" " * LARGEST
    elif how == "endless":
        issuer.headers = {"Content-Length": str(2**40)}
    elif how == "empty":
        issuer.publish()
    elif how == "secrets":
        issuer.publish({"kty": "oct", "k": "AAAA", "kid": "a"})
    else:
        issuer.document = how.encode("latin-1")


@pytest.mark.parametrize(
    "how",
    [
        *("slow", "down", "error", "elsewhere", "huge", "endless", "empty", "secrets"),
        *("", "<html>", "[]", "{}", "null", '{"keys":5}', '{"keys":[5,null,[]]}', "\xff\xfe"),
        "[" * 100_000,
        '{"keys":' + "9" * 5000 + "}",
    ],
)
@pytest.mark.usefixtures("_hasty")
@pytest.mark.gen_test
async def test_an_issuer_that_fails_takes_no_key_away_and_is_told_of_once(
    issuer: Issuer, how: str
) -> None:
    good = issuer.document
    with capture_logs() as entries:
        async with keeping(issuer.url, max_age=0.05, within=0.2) as kept:
            by = verifier(kept)
            await by.verify_anew(signed("P-256", kid="a"))
            breaking(issuer, how)
            await eventually(lambda: [e for e in entries if "can't be fetched" in e["event"]])
            before = issuer.requests
            # More than once, so that a second line would be seen.
            await eventually(lambda: issuer.requests > before + 2)
            assert refusal(by, signed("P-256", kid="a")) is None
            assert refusal(by, signed("P-256", kid="b")) is Refusal.UNKNOWN_KEY
            issuer.let_go.set()
            issuer.document, issuer.status, issuer.headers = good, 200, {}
            await eventually(lambda: [e for e in entries if "again" in e["event"][-6:]][1:])
            assert refusal(by, signed("P-256", kid="a")) is None
    assert [entry["event"] for entry in entries] == [
        "key set fetched",
        "the key set can't be fetched, trying again",
        "the key set can be fetched again",
    ]
    assert "\n" not in entries[1]["reason"]
    assert entries[1]["reason"]
    assert entries[1]["keys_kept"] == 1


@pytest.mark.usefixtures("_hasty")
@pytest.mark.gen_test
async def test_an_issuer_that_is_down_at_the_start_is_asked_until_it_answers() -> None:
    with issuing(jwk("P-256", kid="a")) as made:
        made.status = 500
        async with keeping(made.url) as kept:
            by = verifier(kept)
            with pytest.raises(UnknownKeyError):
                await by.verify_anew(signed("P-256", kid="a"))
            made.status = 200
            await eventually(lambda: refusal(by, signed("P-256", kid="a")) is None)


@pytest.mark.gen_test
async def test_members_of_no_use_are_skipped_and_counted(issuer: Issuer) -> None:
    issuer.publish(
        {"kty": "new"}, jwk("P-256", kid="e", use="enc"), jwk("rsa1024"), jwk("P-256", kid="a")
    )
    with capture_logs() as entries:
        async with keeping(issuer.url) as kept:
            await eventually(lambda: kept.keys)
            assert names(kept) == ["a"]
    assert (entries[0]["keys"], entries[0]["skipped"]) == (1, 3)


@pytest.mark.gen_test
async def test_no_more_keys_of_a_set_are_looked_at_than_may_be(issuer: Issuer) -> None:
    issuer.publish(*(jwk("P-256", kid=str(number)) for number in range(150)))
    async with keeping(issuer.url) as kept:
        await eventually(lambda: kept.keys)
        assert len(kept.keys) == jwks.MOST_KEYS


@pytest.mark.gen_test
async def test_another_address_brings_its_own_keys_and_takes_the_others_away(
    issuer: Issuer,
) -> None:
    with issuing(jwk("P-256", 1, kid="b")) as other:
        async with keeping(issuer.url) as kept:
            by = verifier(kept)
            text = signed("P-256", kid="a")
            await by.verify_anew(text)
            kept.use(other.url)
            assert refusal(by, text) is Refusal.UNKNOWN_KEY
            await eventually(lambda: names(kept) == ["b"])
            kept.use(None)
            assert refusal(by, signed("P-256", number=1, kid="b")) is Refusal.UNKNOWN_KEY
            await asyncio.wait_for(kept.fetched_anew(), 20)
            kept.use(issuer.url)
            await eventually(lambda: refusal(by, text) is None)


@pytest.mark.gen_test
async def test_an_answer_of_the_address_before_is_not_taken(issuer: Issuer) -> None:
    issuer.stall()
    with issuing(jwk("P-256", 1, kid="b")) as other:
        async with keeping(issuer.url) as kept:
            await eventually(lambda: issuer.requests == 1)
            kept.use(other.url)
            issuer.let_go.set()
            await eventually(lambda: kept.keys)
            assert names(kept) == ["b"]


@pytest.mark.gen_test
async def test_configured_keys_work_beside_a_set_that_never_came(issuer: Issuer) -> None:
    issuer.stall()
    async with keeping(issuer.url) as kept:
        by = TokenVerifier(keys_of_pem(pem("rsa2048")), kept, algorithms=ALGORITHMS)
        assert by.verify(signed("rsa2048")).user == "u"
        assert by.verify(signed("rsa2048", kid="whatever")).user == "u"
        issuer.let_go.set()
