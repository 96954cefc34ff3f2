"""``/internal/users/<id>/disconnect`` and ``/internal/tokens/revoke``, over real sockets."""

import asyncio
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from tornado.httpclient import AsyncHTTPClient

from archibald_rt import server as server_module
from archibald_rt.eventlog import EventLog
from archibald_rt.eventlog.base import Step, Turn
from archibald_rt.revocations import Revocation, Revocations
from engines import Engine, over_both
from support import (
    EMIT_TOKEN,
    READ_TOKEN,
    Device,
    Harness,
    eventually,
    harness,
    problem_of,
    token,
)

REFUSED = (1008, "Authentication failed")
CUT_OFF = (4002, "Disconnected")
REVOKE = "/internal/tokens/revoke"

NOW = int(time.time())


def stamp(second: float) -> str:
    """Return a moment, in seconds from when the tests began, in RFC 3339."""
    return (datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=second)).isoformat()


def path(user: str) -> str:
    """Return the path that disconnects a user, percent-encoded."""
    return f"/internal/users/{quote(user, safe='')}/disconnect"


async def post(server: Harness, to: str, body: object) -> int:
    """Post what is to be done; returns how many were disconnected."""
    response = await server.post(to, json.dumps(body).encode())
    assert response.code == 200, response.body
    answer: dict[str, int] = json.loads(response.body)
    assert list(answer) == ["disconnected"]
    return answer["disconnected"]


async def revoke(server: Harness, token_id: str, expires: str = stamp(3600)) -> int:
    return await post(server, REVOKE, {"jti": token_id, "expires": expires})


def request(to: str, body: bytes) -> bytes:
    """Return a request as it is sent."""
    head = f"POST {to} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {EMIT_TOKEN}\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def connect(server: Harness, user: str = "u", *, v2: bool = True, **claims: Any) -> Device:
    return await server.open({"token": token(user, **claims)}, v2=v2)


async def taken(server: Harness, text: str) -> bool:
    """Whether a token is taken by the WebSocket; the health endpoint has to say the same."""
    health = await server.get("/api/websocket/health", bearer=text, public=True)
    async with await server.open({"token": text}) as device:
        if await device.text() is None:
            assert await device.closed() == REFUSED
            assert health.code == 401
            assert problem_of(health)["detail"] == "Authentication failed"
            return False
    assert health.code == 403, "it is none of an admin's"
    return True


async def ended(device: Device) -> tuple[int | None, str | None]:
    """Wait until the server has closed a connection; return its code and reason."""
    how = await device.closed()
    await device.close()
    return how


async def authenticate(device: Device, text: str) -> None:
    await device.send(json.dumps({"type": "rt.auth", "payload": {"token": text}}))


async def stays(server: Harness, device: Device, user: str = "u") -> None:
    """Check that a device is still served."""
    await server.emit({"userId": user, "type": "STILL"})
    await device.until("STILL")


# A kick


@over_both
@pytest.mark.parametrize("body", [b"", b"{}", b" { } "])
@pytest.mark.gen_test
async def test_a_kick_ends_all_devices_of_a_user_and_nobody_elses_and_revokes_nothing(
    tmp_path: Path, body: bytes
) -> None:
    async with harness(tmp_path) as server:
        devices = [await connect(server, v2=v2, iat=NOW - 60) for v2 in (True, True, False)]
        other = await connect(server, "v")
        response = await server.post(path("u"), body)
        assert (response.code, json.loads(response.body)) == (200, {"disconnected": 3})
        for device in devices:
            assert await ended(device) == CUT_OFF
        assert (await server.stats())["connections"]["total"] == 1
        await stays(server, other, "v")
        assert await taken(server, token("u", iat=NOW - 60))
        assert await taken(server, token("u"))
        assert (await server.stats())["revoked"] == {"users": 0, "tokens": 0}
        await other.close()


@pytest.mark.gen_test
async def test_a_request_without_any_body_is_a_kick(tmp_path: Path) -> None:
    async with harness(tmp_path) as server, await connect(server) as device:
        response = await AsyncHTTPClient().fetch(
            server.server.internal_url + path("u"),
            method="POST",
            allow_nonstandard_methods=True,
            headers={
                "Authorization": f"Bearer {EMIT_TOKEN}",
                # What curl says of nothing.
                "Content-Type": "application/x-www-form-urlencoded",
            },
        )
        assert json.loads(response.body) == {"disconnected": 1}
        assert await ended(device) == CUT_OFF


@pytest.mark.gen_test
async def test_who_is_not_connected_is_no_error(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        assert await post(server, path("nobody"), {}) == 0
        assert await post(server, path("nobody"), {"revokeBefore": stamp(0)}) == 0
        assert await revoke(server, "none") == 0


@over_both
@pytest.mark.gen_test
async def test_hostile_ids_are_told_apart(tmp_path: Path) -> None:
    names = ["a/b", "a%2Fb", "..", "*", "\xe9", "e\u0301", "\U0001f600"]
    users = [*names, "'; DROP TABLE revoked_users; --"]
    async with harness(tmp_path) as server:
        devices = {user: await connect(server, user, iat=NOW) for user in users}
        for user in users:
            assert await post(server, path(user), {"revokeBefore": stamp(1)}) == 1
            assert await ended(devices.pop(user)) == CUT_OFF
            assert (await server.stats())["connections"]["total"] == len(devices)


# revokeBefore


@over_both
@pytest.mark.gen_test
async def test_tokens_issued_before_are_refused_from_then_on_and_later_ones_are_taken(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path) as server:
        # Each has been taken, and so is remembered.
        old, silent = token("u", iat=NOW - 60), token("u")
        new, same = token("u", iat=NOW - 58), token("u", iat=NOW - 59)
        other = token("v", iat=NOW - 60)
        for each in (old, silent, new, same, other):
            assert await taken(server, each)
        device = await server.open({"token": old})
        newer = await server.open({"token": new})
        # All devices, also those whose token is still good.
        assert await post(server, path("u"), {"revokeBefore": stamp(-59)}) == 2
        assert await ended(device) == CUT_OFF
        assert await ended(newer) == CUT_OFF
        assert not await taken(server, old)
        assert not await taken(server, silent)
        assert await taken(server, same)
        assert await taken(server, new)
        assert await taken(server, other)
        # It never goes back.
        assert await post(server, path("u"), {"revokeBefore": stamp(-7200)}) == 0
        assert not await taken(server, old)
        assert (await server.stats())["revoked"] == {"users": 1, "tokens": 0}


@over_both
@pytest.mark.gen_test
async def test_a_moment_within_a_second_divides_the_tokens_of_that_second(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        second = NOW - 60
        await post(server, path("u"), {"revokeBefore": stamp(-59.5)})
        assert not await taken(server, token("u", iat=second + 0.49))
        assert await taken(server, token("u", iat=second + 0.5))
        assert await taken(server, token("u", iat=second + 0.51))
        # Its issuer gives whole seconds: it may have been either.
        assert not await taken(server, token("u", iat=second))
        assert await taken(server, token("u", iat=second + 1))


@over_both
@pytest.mark.gen_test
async def test_a_revoked_token_is_refused_at_rt_auth(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        await post(server, path("u"), {"revokeBefore": stamp(-10)})
        await revoke(server, "stolen")
        refused: list[dict[str, Any]] = [
            {},
            {"iat": NOW - 11},
            {"iat": NOW, "jti": "stolen"},
        ]
        for claims in refused:
            device = await connect(server, iat=NOW)
            await authenticate(device, token("u", **claims))
            assert await ended(device) == REFUSED
        async with await connect(server, iat=NOW) as device:
            await authenticate(device, token("u", iat=NOW, jti="mine"))
            await device.until("rt.auth")
            await stays(server, device)


# One token


@over_both
@pytest.mark.gen_test
async def test_a_revoked_token_ends_the_devices_that_hold_it_and_is_refused_from_then_on(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path) as server:
        stolen = [await connect(server, v2=v2, jti="stolen") for v2 in (True, False)]
        others = [await connect(server, jti="mine"), await connect(server)]
        assert await revoke(server, "stolen") == 2
        for device in stolen:
            assert await ended(device) == CUT_OFF
        assert not await taken(server, token("u", jti="stolen"))
        assert not await taken(server, token("v", jti="stolen", iat=NOW))
        assert await taken(server, token("u", jti="mine"))
        assert (await server.stats())["revoked"] == {"users": 0, "tokens": 1}
        for device in others:
            await stays(server, device)
            await device.close()


@pytest.mark.gen_test
async def test_a_device_holds_the_token_of_its_last_rt_auth(tmp_path: Path) -> None:
    async with harness(tmp_path) as server, await connect(server, jti="first") as device:
        await authenticate(device, token("u", jti="second"))
        await device.until("rt.auth")
        assert await revoke(server, "first") == 0
        await stays(server, device)
        assert await revoke(server, "second") == 1
        assert await ended(device) == CUT_OFF


@pytest.mark.gen_test
async def test_an_id_that_is_a_number_is_its_decimals(tmp_path: Path) -> None:
    async with harness(tmp_path) as server, await connect(server, jti=17) as device:
        assert await revoke(server, "17") == 1
        assert await ended(device) == CUT_OFF


@over_both
@pytest.mark.gen_test
async def test_a_token_that_has_expired_is_not_kept_but_its_devices_go(tmp_path: Path) -> None:
    async with harness(tmp_path) as server, await connect(server, jti="t") as device:
        long_ago, just_now = (
            datetime.fromtimestamp(time.time() - seconds, UTC).isoformat() for seconds in (31, 1)
        )
        assert await revoke(server, "t", long_ago) == 1
        assert await ended(device) == CUT_OFF
        assert (await server.stats())["revoked"]["tokens"] == 0
        # Within the leeway it would still be taken.
        assert await revoke(server, "t", just_now) == 0
        assert (await server.stats())["revoked"]["tokens"] == 1


@pytest.mark.gen_test
async def test_a_token_is_forgotten_with_the_pruning_once_it_has_expired(tmp_path: Path) -> None:
    often = {"log.prune_every": "20ms", "auth.leeway": "0s"}
    async with harness(tmp_path, often) as server:
        await revoke(server, "long")
        await revoke(server, "short", datetime.fromtimestamp(time.time() + 0.3, UTC).isoformat())
        await post(server, path("u"), {"revokeBefore": stamp(0)})

        async def forgotten() -> bool:
            return bool((await server.stats())["revoked"] == {"users": 1, "tokens": 1})

        await eventually(forgotten)
        with closing(sqlite3.connect(server.settings.log.path)) as file:
            assert file.execute("SELECT token FROM revoked_tokens").fetchall() == [(b"long",)]
            assert file.execute("SELECT user FROM revoked_users").fetchall() == [(b"u",)]
        assert not await taken(server, token("u", jti="long", iat=NOW + 1))


@pytest.mark.gen_test
async def test_a_later_expiry_of_a_revoked_token_counts(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        for hours in (2, 3, 1):
            await revoke(server, "t", stamp(hours * 3600))
        with closing(sqlite3.connect(server.settings.log.path)) as file:
            [(expires,)] = file.execute("SELECT expires FROM revoked_tokens").fetchall()
        assert expires == (NOW + 3 * 3600) * 10**9


@over_both
@pytest.mark.gen_test
async def test_more_tokens_than_are_kept_are_refused_and_a_user_is_revoked_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "Revocations", partial(Revocations, max_tokens=2))
    async with harness(tmp_path) as server:
        async with await connect(server, jti="c") as device:
            await revoke(server, "a")
            await revoke(server, "b")
            body = json.dumps({"jti": "c", "expires": stamp(3600)}).encode()
            refused = await server.post(REVOKE, body)
            assert refused.code == 503
            assert int(refused.headers["Retry-After"]) >= 1
            assert "2 tokens are revoked" in problem_of(refused)["detail"]
            await stays(server, device)
            # Again is no more of them.
            await revoke(server, "a", stamp(7200))
            assert await post(server, path("u"), {"revokeBefore": stamp(0)}) == 1
            assert await ended(device) == CUT_OFF


@over_both
@pytest.mark.gen_test
async def test_tokens_that_have_expired_make_room_though_nothing_is_ever_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    clock = [now]
    made = partial(Revocations, max_tokens=2, clock=lambda: clock[0])
    monkeypatch.setattr(server_module, "Revocations", made)
    async with harness(tmp_path, {"log.prune_every": "0"}) as server:
        await revoke(server, "a")
        await revoke(server, "b")
        body = json.dumps({"jti": "c", "expires": stamp(10**6)}).encode()
        assert (await server.post(REVOKE, body)).code == 503
        clock[0] = now + 10**5
        assert (await server.post(REVOKE, body)).code == 200


# What is not done


@pytest.mark.parametrize(
    ("to", "body", "field"),
    [
        (path("u"), b"[]", None),
        (path("u"), b"null", None),
        (path("u"), b"x", None),
        (path("u"), b" ", None),
        (path("u"), b'{"revokeBefore":null}', "revokeBefore"),
        (path("u"), b'{"revokeBefore":1700000000}', "revokeBefore"),
        (path("u"), b'{"revokeBefore":"2026-01-01T00:00:00"}', "revokeBefore"),
        (path("u"), b'{"revokeBefore":"now"}', "revokeBefore"),
        (path("u"), b'{"revokeBefore":"\xff"}', None),
        (path("u"), b'{"before":"2026-01-01T00:00:00Z"}', "before"),
        (path("u"), b"[" * 100_000, None),
        (path(""), b"{}", "userId"),
        (path("x" * 257), b"{}", "userId"),
        ("/internal/users/%ff/disconnect", b"{}", "userId"),
        (REVOKE, b"", None),
        (REVOKE, b"{}", "jti"),
        (REVOKE, b'{"jti":"a"}', "expires"),
        (REVOKE, b'{"jti":"","expires":"2026-01-01T00:00:00Z"}', "jti"),
        (REVOKE, b'{"jti":"%b","expires":"2026-01-01T00:00:00Z"}' % (b"x" * 257), "jti"),
        (REVOKE, b'{"jti":1,"expires":"2026-01-01T00:00:00Z"}', "jti"),
        (REVOKE, b'{"jti":"\\ud800","expires":"2026-01-01T00:00:00Z"}', "jti"),
        (REVOKE, b'{"jti":"a","expires":"tomorrow"}', "expires"),
        (REVOKE, b'{"jti":"a","expires":null}', "expires"),
        (REVOKE, b'{"jti":"a","expires":"2026-01-01T00:00:00Z","userId":"u"}', "userId"),
    ],
)
@pytest.mark.gen_test
async def test_what_is_wrong_with_a_request_is_named_and_nothing_done(
    tmp_path: Path, to: str, body: bytes, field: str | None
) -> None:
    async with harness(tmp_path) as server, await connect(server, jti="a") as device:
        refused = await server.post(to, body)
        assert refused.code == 400
        problem = problem_of(refused)
        assert problem.get("field") == field
        assert field is None or problem["detail"].startswith(field)
        await stays(server, device)
        assert (await server.stats())["revoked"] == {"users": 0, "tokens": 0}


@pytest.mark.parametrize("to", [path("u"), REVOKE])
@pytest.mark.gen_test
async def test_who_may_not_revoke_is_told_so_and_so_is_who_asks_wrongly(
    tmp_path: Path, to: str
) -> None:
    async with harness(tmp_path, {"internal.max_body": "1KiB"}) as server:
        async with await connect(server, jti="a") as device:
            for bearer in (None, "wrong", READ_TOKEN):
                refused = await server.post(to, b"{}", bearer=bearer)
                assert refused.code == 401
                problem_of(refused)
            refused = await server.get(to)
            assert refused.code == 405
            assert refused.headers["Allow"] == "POST"
            for size in (1025, 2049):
                refused = await server.post(to, b" " * size)
                assert refused.code == 413
                assert problem_of(refused)["field"] == "body"
            refused = await server.post(to, b"{}", Content_Type="text/plain")
            assert refused.code == 415
            assert problem_of(refused)["field"] == "Content-Type"
            await stays(server, device)


@contextmanager
def locked(server: Harness) -> Iterator[None]:
    """Let the log not commit."""
    with closing(sqlite3.connect(server.settings.log.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@pytest.mark.gen_test
async def test_where_the_log_can_not_commit_nothing_is_done_and_a_kick_goes_on(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path) as server, await connect(server, jti="t", iat=NOW) as device:
        with locked(server):
            for to, body in (
                (path("u"), {"revokeBefore": stamp(60)}),
                (REVOKE, {"jti": "t", "expires": stamp(3600)}),
            ):
                refused = await server.post(to, json.dumps(body).encode())
                assert refused.code == 503
                assert int(refused.headers["Retry-After"]) >= 1
                assert "nothing was done" in problem_of(refused)["detail"]
            assert await taken(server, token("u", jti="t", iat=NOW))
            assert (await server.stats())["connections"]["total"] == 1
            assert await post(server, path("u"), {}) == 1
            assert await ended(device) == CUT_OFF
        assert await taken(server, token("u", jti="t", iat=NOW))
        await revoke(server, "t")
        assert not await taken(server, token("u", jti="t", iat=NOW))


@pytest.mark.gen_test
async def test_where_nobody_knows_whether_it_was_committed_that_is_said(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        log = server.settings.log.path
        await asyncio.to_thread(log.rename, log.with_name("elsewhere.db"))
        body = json.dumps({"revokeBefore": stamp(0)}).encode()
        unknown = await server.post(path("u"), body)
        assert unknown.code == 504
        assert problem_of(unknown)["type"] == "outcome-unknown"
        await asyncio.wait_for(server.server.shutdown.wanted(), 20)  # type: ignore[attr-defined]  # a server of this process


@pytest.mark.parametrize(
    ("to", "body"), [(path("u"), b""), (REVOKE, b'{"jti":"t","expires":"2100-01-01T00:00:00Z"}')]
)
@pytest.mark.gen_test
async def test_while_the_server_drains_nothing_is_revoked_any_more(
    tmp_path: Path, to: str, body: bytes
) -> None:
    async with harness(tmp_path, {"server.drain": "2s"}) as server:
        url = server.server.internal_url
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        device = await connect(server)
        draining = asyncio.ensure_future(server.server.drain())  # type: ignore[attr-defined]  # as above
        await device.until("rt.reconnect")
        writer.write(request(to, body))
        answer = await asyncio.wait_for(reader.read(), 20)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Connection: close" in answer
        assert b"Retry-After: " in answer
        assert (await ended(device))[0] == 1001
        writer.close()
        await draining


# In which order


class Gates:
    """Lets revocations wait before and after they are committed."""

    def __init__(self, patch: pytest.MonkeyPatch, engine: Engine) -> None:
        self.before, self.after = asyncio.Event(), asyncio.Event()
        self.arrived = asyncio.Event()
        self.committed = asyncio.Event()
        plain = engine.log.revoke
        gates = self

        async def gated(log: EventLog, revocation: Revocation, turn: Turn) -> None:
            async def waiting(step: Step) -> int:
                async def between() -> int:
                    gates.arrived.set()
                    await gates.before.wait()
                    done = await step()
                    gates.committed.set()
                    await gates.after.wait()
                    return done

                return await turn(between)

            await plain(log, revocation, waiting)

        patch.setattr(engine.log, "revoke", gated)

    def open(self) -> None:
        """Let everything through."""
        self.before.set()
        self.after.set()


@over_both
@pytest.mark.gen_test
async def test_nobody_is_cut_off_or_answered_before_the_commit_and_all_are_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    gates = Gates(monkeypatch, engine)
    async with harness(tmp_path) as server, await connect(server, iat=NOW) as device:
        answer = asyncio.ensure_future(post(server, path("u"), {"revokeBefore": stamp(60)}))
        await gates.arrived.wait()
        async with await connect(server, iat=NOW) as other:
            await other.until("rt.live")
        assert (await server.stats())["connections"]["total"] >= 1
        assert not answer.done()
        gates.before.set()
        await gates.committed.wait()
        # On disk already, and not in force yet: whoever comes now does not stay.
        late = await connect(server, iat=NOW)
        await late.until("rt.live")
        assert not answer.done()
        gates.after.set()
        assert await answer >= 2
        assert await ended(device) == CUT_OFF
        assert await ended(late) == CUT_OFF
        assert not await taken(server, token("u", iat=NOW))


@over_both
@pytest.mark.gen_test
async def test_a_revocation_takes_effect_even_if_its_caller_goes_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    gates = Gates(monkeypatch, engine)
    async with harness(tmp_path) as server, await connect(server, iat=NOW) as device:
        port = int(server.server.internal_url.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        body = json.dumps({"revokeBefore": stamp(60)}).encode()
        writer.write(request(path("u"), body))
        await gates.arrived.wait()
        writer.transport.abort()
        gates.open()
        assert await ended(device) == CUT_OFF
        assert not await taken(server, token("u", iat=NOW))


@over_both
@pytest.mark.gen_test
async def test_a_restarted_server_refuses_what_was_revoked(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        await post(server, path("u"), {"revokeBefore": stamp(-60)})
        await revoke(server, "t")
    async with harness(tmp_path) as server:
        assert (await server.stats())["revoked"] == {"users": 1, "tokens": 1}
        assert not await taken(server, token("u", iat=NOW - 61))
        assert not await taken(server, token("u", iat=NOW, jti="t"))
        assert await taken(server, token("u", iat=NOW))
