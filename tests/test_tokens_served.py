"""Tokens at a server that runs: what is refused where, counted, and never written anywhere."""

import asyncio
import contextlib
import io
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
import structlog
from tornado.websocket import WebSocketClosedError

from archibald_rt import logs
from archibald_rt.auth import jwks
from eventstreams import ask
from issuer import Issuer, issuing, jwk, pem, signed
from support import (
    EMIT_TOKEN,
    READ_TOKEN,
    SECRET,
    Harness,
    eventually,
    handshake,
    harness,
    problem_of,
    token,
)

REFUSED = (1008, "Authentication failed")
SECOND_SECRET = "a-second-secret-for-tests-of-thirty-two-bytes"
GOOD: dict[str, Any] = {"aud": "here", "iss": "issuer"}


def good(user: str = "u", **claims: object) -> str:
    return token(user, **{**GOOD, **claims})


BAD = {
    "none": "",
    "malformed": "no.jwt.at-all",
    "algorithm": jwt.encode({"userId": "u", **GOOD}, "", algorithm="none"),
    "signature": token("u", secret="another-secret-of-at-least-thirty-two-bytes", **GOOD),
    "expired": good(exp=1),
    "not-yet-valid": good(nbf=4102444800),
    "audience": good(aud="elsewhere"),
    "issuer": good(iss="somebody"),
    "claims": good(""),
    "unknown-key": signed("P-256", kid="unheard-of", **GOOD),
}


@pytest.fixture
def issuer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Issuer]:
    monkeypatch.setattr(jwks, "ASKED_EVERY", 0.05)
    with issuing(jwk("P-256", kid="a")) as made:
        yield made


@asynccontextmanager
async def serving(
    folder: Path, issuer: Issuer, overrides: dict[str, str] | None = None
) -> AsyncIterator[Harness]:
    settings = {
        "auth.jwt_secret": f"{SECRET}, {SECOND_SECRET}",
        "auth.jwt_public_key": pem("rsa2048"),
        "auth.jwks_url": issuer.url,
        "auth.algorithms": "HS256, RS256, ES256",
        "auth.audience": "here",
        "auth.issuer": "issuer",
    }
    async with harness(folder, {**settings, **(overrides or {})}) as server:
        yield server


async def refused_for(server: Harness) -> dict[str, int]:
    connections = (await server.stats())["connections"]
    assert sum(connections["refusedFor"].values()) == connections["refused"]
    counted: dict[str, int] = connections["refusedFor"]
    return counted


@pytest.mark.parametrize("reason", BAD)
@pytest.mark.gen_test
async def test_a_bad_token_is_refused_everywhere_and_counted_by_what_is_wrong_with_it(
    tmp_path: Path, issuer: Issuer, reason: str
) -> None:
    bad = BAD[reason]
    async with serving(tmp_path, issuer) as server:
        for v2 in (True, False):
            async with await server.open({"token": bad}, v2=v2) as device:
                assert await device.text() is None
                assert await device.closed() == REFUSED
        assert await refused_for(server) == {reason: 2}
        health = await server.get("/api/websocket/health", bearer=bad or None, public=True)
        assert health.code == 401
        assert problem_of(health)["detail"] == "Authentication failed"
        async with await ask(server, {"token": bad}) as stream:
            assert stream.status == 401
        assert await refused_for(server) == {reason: 4}
        async with await server.open({"token": good()}) as device:
            await device.until("rt.live")
            await device.send(json.dumps({"type": "rt.auth", "payload": {"token": bad}}))
            assert await device.closed() == REFUSED
        assert await refused_for(server) == {reason: 5}


@pytest.mark.gen_test
async def test_a_new_token_of_another_user_is_refused_and_counted(
    tmp_path: Path, issuer: Issuer
) -> None:
    async with serving(tmp_path, issuer) as server:
        async with await server.open({"token": good()}) as device:
            await device.send(json.dumps({"type": "rt.auth", "payload": {"token": good("v")}}))
            assert await device.closed() == REFUSED
        assert await refused_for(server) == {"user": 1}


@pytest.mark.gen_test
async def test_a_revoked_token_is_counted_as_that_whatever_key_has_signed_it(
    tmp_path: Path, issuer: Issuer
) -> None:
    async with serving(tmp_path, issuer) as server:
        revoked = json.dumps({"jti": "stolen", "expires": "2100-01-01T00:00:00Z"}).encode()
        assert (await server.post("/internal/tokens/revoke", revoked)).code == 200
        for text in (good(jti="stolen"), signed("P-256", kid="a", jti="stolen", **GOOD)):
            async with await server.open({"token": text}) as device:
                assert await device.closed() == REFUSED
        health = await server.get("/api/websocket/health", bearer=good(jti="stolen"), public=True)
        assert health.code == 401
        async with await server.open({"token": good()}) as device:
            await device.until("rt.live")
            message = {"type": "rt.auth", "payload": {"token": good(jti="stolen")}}
            await device.send(json.dumps(message))
            assert await device.closed() == REFUSED
        assert await refused_for(server) == {"revoked": 4}


@pytest.mark.parametrize(
    "text",
    [
        good(),
        token("u", secret=SECOND_SECRET, **GOOD),
        signed("rsa2048", **GOOD),
        signed("rsa2048", kid="of-no-meaning", **GOOD),
        signed("P-256", kid="a", **GOOD),
        signed("P-256", **GOOD),
    ],
    ids=["secret", "second secret", "public key", "with a kid", "key set", "without a kid"],
)
@pytest.mark.gen_test
async def test_a_token_of_any_configured_key_lets_in_at_once_and_renews(
    tmp_path: Path, issuer: Issuer, text: str
) -> None:
    async with serving(tmp_path, issuer) as server:
        async with await server.open({"token": text}) as device:
            await device.until("rt.live")
            await device.send(json.dumps({"type": "rt.auth", "payload": {"token": text}}))
            await device.until("rt.auth")
        assert await refused_for(server) == {}


# A key that turns up


@pytest.mark.gen_test
async def test_a_device_whose_key_was_just_published_is_let_in(
    tmp_path: Path, issuer: Issuer
) -> None:
    async with serving(tmp_path, issuer) as server:
        async with await server.open({"token": signed("P-256", kid="a", **GOOD)}) as old:
            await old.until("rt.live")
            issuer.publish(jwk("P-256", 1, kid="b"))
            new = signed("P-256", number=1, kid="b", **GOOD)
            async with await server.open({"token": new, "lastEventId": "earliest"}) as device:
                await device.until("rt.live")
                await server.emit({"userId": "u", "type": "A"})
                assert (await device.next())["type"] == "A"
            async with await server.open({"token": new}, v2=False) as device:
                await server.emit({"userId": "u", "type": "B"})
                assert (await device.next())["type"] == "B"
            # Who was let in by a key that is gone stays.
            await old.until("B")
        assert await refused_for(server) == {}


@pytest.mark.gen_test
async def test_a_new_token_and_the_health_endpoint_wait_for_a_key_as_well(
    tmp_path: Path, issuer: Issuer
) -> None:
    async with serving(tmp_path, issuer) as server:
        # Let in by the set as it was, so that this is no fetch that is still under way.
        async with await server.open({"token": signed("P-256", kid="a", **GOOD)}) as device:
            await device.until("rt.live")
            issuer.publish(jwk("P-256", 1, kid="b"))
            soon = int(time.time()) + 3600
            new = signed("P-256", number=1, kid="b", exp=soon, role="admin", **GOOD)
            await device.send(json.dumps({"type": "rt.auth", "payload": {"token": new}}))
            assert (await device.until("rt.auth"))["payload"]["expires"] is not None
            issuer.publish(jwk("P-256", 2, kid="c"))
            new = signed("P-256", number=2, kid="c", role="admin", **GOOD)
            health = await server.get("/api/websocket/health", bearer=new, public=True)
            assert health.code == 200


@pytest.mark.gen_test
async def test_a_device_that_waits_for_its_key_gets_nothing_and_loses_nothing_it_sends(
    tmp_path: Path, issuer: Issuer
) -> None:
    issuer.stall()
    async with serving(tmp_path, issuer) as server:
        async with await server.open({"token": signed("P-256", kid="a", **GOOD)}) as device:
            for text in ("ping", '{"type":"JOB_CANCEL"}', '{"type":"rt.x"}'):
                await device.send(text)
            await eventually(lambda: issuer.requests == 1)
            assert (await server.emit({"userId": "u", "type": "SECRET"}))["delivered"] == 0
            assert (await server.stats())["connections"]["total"] == 0
            # A known key has nothing to wait for.
            async with await server.open({"token": good()}) as other:
                await other.until("rt.live")
            issuer.let_go.set()
            await device.until("rt.live")
            await eventually(lambda: received(server, 3))
            assert await device.text() == "pong"
            assert {message["type"] for message in device.seen} == {"rt.welcome", "rt.live"}


async def received(server: Harness, count: int) -> bool:
    return bool((await server.stats())["clientMessages"]["received"] == count)


@pytest.mark.gen_test
async def test_of_a_device_whose_key_does_not_turn_up_nothing_is_handled(
    tmp_path: Path, issuer: Issuer
) -> None:
    issuer.stall()
    async with serving(tmp_path, issuer) as server:
        async with await server.open({"token": BAD["unknown-key"]}) as device:
            for text in ("ping", '{"type":"JOB_CANCEL"}'):
                await device.send(text)
            await eventually(lambda: issuer.requests == 1)
            issuer.let_go.set()
            assert await device.closed() == REFUSED
            assert device.seen == []
        assert await received(server, 0)


@pytest.mark.gen_test
async def test_a_device_that_goes_while_it_waits_leaves_nothing_behind(
    tmp_path: Path, issuer: Issuer
) -> None:
    issuer.stall()
    async with serving(tmp_path, issuer) as server:
        device = await server.open({"token": signed("P-256", kid="a", **GOOD)})
        await eventually(lambda: issuer.requests == 1)
        device.drop()
        closing = await server.open({"token": signed("P-256", kid="a", **GOOD)})
        await closing.close()
        issuer.let_go.set()
        async with await server.open({"token": signed("P-256", kid="a", **GOOD)}) as last:
            await last.until("rt.live")
            assert (await server.stats())["connections"]["total"] == 1


@pytest.mark.gen_test
async def test_a_device_that_breaks_the_rules_while_it_waits_is_not_let_in(
    tmp_path: Path, issuer: Issuer
) -> None:
    issuer.stall()
    text = signed("P-256", kid="a", **GOOD)
    async with serving(tmp_path, issuer) as server:
        port = int(server.server.public_url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(handshake(text))
        await eventually(lambda: issuer.requests == 1)
        # Not masked.
        writer.write(b"\x81\x04ping")
        await reader.readuntil(b"\x03\xea")
        issuer.let_go.set()
        async with await server.open({"token": text}) as device:
            await device.until("rt.live")
            assert (await server.stats())["connections"]["total"] == 1
            assert (await server.emit({"userId": "u", "type": "A"}))["delivered"] == 1
        rest = await asyncio.wait_for(reader.read(), 20)
        assert b"type" not in rest
        writer.close()


@pytest.mark.gen_test
async def test_a_device_that_goes_makes_room_for_another_that_has_to_wait(
    tmp_path: Path, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "WAITING", 1)
    issuer.stall()
    waits = {"token": signed("P-256", kid="a", **GOOD)}
    async with serving(tmp_path, issuer) as server:
        first = await server.open(waits)
        await eventually(lambda: issuer.requests == 1)
        async with await server.open(waits) as second:
            assert await second.closed() == REFUSED
        first.drop()
        tried = []

        async def waiting() -> bool:
            tried.append(await server.open(waits))
            # One that may not wait is refused in the turn after its handshake.
            return sum((await refused_for(server)).values()) < len(tried) + 1

        await eventually(waiting)
        issuer.let_go.set()
        await tried[-1].until("rt.live")
        for device in tried:
            await device.close()


@pytest.mark.gen_test
async def test_a_drain_sends_home_who_waits_for_a_key(tmp_path: Path, issuer: Issuer) -> None:
    issuer.stall()
    async with serving(tmp_path, issuer, {"server.drain": "2s"}) as server:
        device = await server.open({"token": signed("P-256", kid="a", **GOOD)})
        await eventually(lambda: issuer.requests == 1)
        closing = asyncio.create_task(device.closed())
        # The end of the server waits for the request that is under way, but for nobody else.
        closing.add_done_callback(lambda _: issuer.let_go.set())
    assert await asyncio.wait_for(closing, 20) == (1001, "Server going away")
    await device.close()


# What is written


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    stream = io.StringIO()
    logs.configure(level="debug", log_format="json", stream=stream)
    yield stream
    root.handlers[:], root.level = before, level
    structlog.reset_defaults()


def parts_of(text: str) -> list[str]:
    return [part for part in text.split(".") if len(part) > 5]


@pytest.mark.gen_test
async def test_no_line_of_the_log_nor_any_answer_holds_a_part_of_a_token_or_secret(
    tmp_path: Path, issuer: Issuer, written: io.StringIO
) -> None:
    answers = []
    tokens = [*BAD.values(), good(exp=int(time.time()) + 900), signed("P-256", kid="a", **GOOD)]
    async with serving(tmp_path, issuer) as server:
        for text in tokens:
            ways: tuple[dict[str, Any], ...] = (
                {"query": {"token": text}},
                {"query": {}, "headers": {"Authorization": f"Bearer {text}"}},
                {"query": {}, "subprotocols": ["archibald.v2", f"bearer.{text}"]},
            )
            for options in ways:
                device = await server.open(**options)
                async with device:
                    message = {"type": "rt.auth", "payload": {"token": text}}
                    # Who was refused is perhaps closed by now.
                    with contextlib.suppress(WebSocketClosedError):
                        await device.send(json.dumps(message))
                answers.append(str(device.seen))
            answer = await server.get("/api/websocket/health", bearer=text or None, public=True)
            answers.append(answer.body.decode())
            for headers in ({}, {"Authorization": f"Bearer {text}"}):
                query = {} if headers else {"token": text}
                async with await ask(server, query, headers=headers) as stream:
                    answers.append(str(stream.head))
            for path in ("/internal/stats", "/internal/connections", "/nothing"):
                answers.append((await server.get(path, bearer=text or None)).body.decode())
                answers.append((await server.get(path)).body.decode())
    said = written.getvalue() + "".join(answers)
    assert said.count("device refused") >= 5 * len(BAD)
    secrets = [SECRET, SECOND_SECRET, EMIT_TOKEN, READ_TOKEN]
    for secret in [*secrets, *(part for text in tokens for part in parts_of(text))]:
        assert secret not in said


def reasons(stream: io.StringIO) -> list[Any]:
    entries = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [entry["reason"] for entry in entries if entry["event"].endswith("refused")]


@pytest.mark.gen_test
async def test_the_line_of_a_refusal_says_the_reason(
    tmp_path: Path, issuer: Issuer, written: io.StringIO
) -> None:
    async with serving(tmp_path, issuer) as server:
        for reason, text in BAD.items():
            async with await server.open({"token": text}) as device:
                await device.closed()
            assert reasons(written) == [reason]
            written.truncate(0)
            written.seek(0)
