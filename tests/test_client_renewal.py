"""A client renews its token in place, against a real server whose tokens expire at once."""

import json
import math
import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from archibald_rt.client import Client, Gap, Live, ReceivedEvent
from archibald_rt.client.renewal import renew_in, seconds_of
from support import SECRET, eventually, harness, token


async def events(client: Client, count: int) -> list[Any]:
    """Return the payloads of the next events; fails on a gap."""
    payloads: list[Any] = []
    while len(payloads) < count:
        item = await anext(client)
        assert not isinstance(item, Gap)
        if isinstance(item, ReceivedEvent):
            payloads.append(item.payload)
    return payloads


@pytest.mark.gen_test
async def test_a_token_is_renewed_before_it_expires_and_the_connection_stays(
    tmp_path: Path,
) -> None:
    made: list[int] = []

    async def fresh() -> str:
        made.append(math.floor(time.time()) + 2)
        return token("u", exp=made[-1])

    # The leeway is for a machine that is slow to ask.
    async with harness(tmp_path, {"auth.leeway": "4s"}) as server:
        async with Client(server.server.public_url, fresh) as client:
            assert isinstance(await anext(client), Live)
            await eventually(lambda: time.time() > made[0] + 5)
            assert len(made) > 1
            for number in range(3):
                await server.emit(
                    {"userId": "u", "type": "TICK", "payload": number, "durable": False}
                )
            # Transient: a client that had to come back would have missed them.
            assert await events(client, 3) == [0, 1, 2]
        assert (await server.stats())["connections"]["resumed"] == 0


@pytest.mark.gen_test
async def test_a_renewal_that_fails_is_tried_again_by_the_next_connect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = 0

    def unsteady() -> str:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise LookupError("the issuer is asleep")
        return token("u", exp=int(time.time()) + (2 if asked == 1 else 600))

    async with harness(tmp_path, {"auth.leeway": "0"}) as server:
        url = server.server.public_url
        async with Client(url, unsteady, backoff_first=0.01) as client:
            assert isinstance(await anext(client), Live)
            await server.emit({"userId": "u", "type": "A", "payload": 1})
            await eventually(lambda: asked == 3)
            await server.emit({"userId": "u", "type": "A", "payload": 2})
            assert await events(client, 2) == [1, 2]
    assert "the token could not be renewed: the issuer is asleep" in caplog.text


@pytest.mark.gen_test
async def test_a_token_that_is_no_callable_is_never_renewed(tmp_path: Path) -> None:
    async with harness(tmp_path, {"auth.leeway": "0"}) as server:
        text = token("u", exp=int(time.time()) + 2)
        async with Client(server.server.public_url, text) as client:
            assert isinstance(await anext(client), Live)
            with pytest.raises(Exception, match="4001"):
                await anext(client)


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"exp": 1100}, 80.0),
        ({"exp": 1100.5}, 80.4),
        ({"exp": "1100"}, 80.0),
        ({"exp": 1000}, 1.0),
        ({"exp": 1}, 1.0),
        ({}, None),
        ({"exp": None}, None),
        ({"exp": "soon"}, None),
        ({"exp": 1e999}, None),
    ],
)
def test_a_token_is_renewed_when_four_fifths_of_its_time_are_over(
    claims: dict[str, Any], expected: float | None
) -> None:
    text = jwt.api_jws.PyJWS().encode(
        json.dumps({"userId": "u", **claims}).encode(), SECRET, algorithm="HS256"
    )
    waits = renew_in(text, 1000.0)
    assert waits == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("text", ["", "secret", "a.b.c", "ey.ey.ey", "x" * 9000])
def test_what_is_no_token_is_the_server_s_to_judge(text: str) -> None:
    assert renew_in(text, 1000.0) is None


def test_the_time_of_the_server_is_read_from_its_timestamps() -> None:
    assert seconds_of("1970-01-01T00:01:00.500Z") == 60.5
    assert seconds_of("") is None
    assert seconds_of("yesterday") is None
