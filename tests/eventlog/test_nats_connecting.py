"""The connection to NATS: ``eventlog.nats.connecting`` and ``eventlog.nats.credentials``."""

import asyncio
import base64
import gc
import hashlib
import json
import os
import signal
import warnings
from pathlib import Path
from typing import Any

import nkeys  # type: ignore[import-untyped]  # it has no types
import pytest

from archibald_rt.errors import LogOpenError, LogUnavailableError, LogUncertainError
from archibald_rt.eventlog.nats.credentials import Credentials
from archibald_rt.eventlog.nats.jet import UNSENT
from archibald_rt.eventlog.nats.opening import open_nats
from engines import emission, page, seqs, stored
from issuer import certificate_files
from natsservers import NatsServer, cable, nats_server
from support import PATIENCE, eventually


def tls(folder: Path) -> tuple[str, Path]:
    """Return what a server with a certificate is configured by, and whom to trust for it."""
    certificate, key = certificate_files(folder)
    return f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}', certificate


def by(user: str, server: NatsServer, scheme: str = "nats") -> str:
    """Return a server's address with a user in it."""
    return f"{scheme}://{user}@{server.url.partition('://')[2]}"


async def works(server: str, **options: Any) -> bool:
    async with open_nats([server], "RT", **options) as log:
        await stored(log, emission())
        return bool(seqs(await page(log)))


@pytest.mark.gen_test
async def test_a_server_with_tls_is_trusted_by_the_ca_that_is_named(tmp_path: Path) -> None:
    more, ca = tls(tmp_path)
    (tmp_path / "other").mkdir()
    _, other = tls(tmp_path / "other")
    with nats_server(tmp_path / "nats", more=more) as server:
        secure = server.url.replace("nats://", "tls://")
        assert await works(secure, tls_ca=ca)
        assert await works(server.url, tls_ca=ca)
        with pytest.raises(LogOpenError, match="CERTIFICATE_VERIFY_FAILED"):
            await works(secure, tls_ca=other)
        with pytest.raises(LogOpenError, match="CERTIFICATE_VERIFY_FAILED"):
            await works(secure)
        with pytest.raises(LogOpenError, match=r"\[nats\] tls_ca .*nowhere"):
            await works(secure, tls_ca=tmp_path / "nowhere")


@pytest.mark.gen_test
async def test_a_server_without_tls_is_refused_where_tls_is_asked_for(tmp_path: Path) -> None:
    _, ca = tls(tmp_path)
    with nats_server(tmp_path / "nats", more='authorization { token: "secret" }') as server:
        for address, trusted in (
            (by("secret", server, "tls"), None),
            (by("secret", server, "tls"), ca),
            (by("secret", server), ca),
        ):
            with pytest.raises(LogOpenError, match="offers no TLS"):
                await works(address, tls_ca=trusted)
        # What it would have been told, had it been asked.
        assert await works(by("secret", server))


@pytest.mark.parametrize(
    ("authorization", "right", "wrong"),
    [
        ('user: "rt", password: "p@ss/word"', "rt:p%40ss%2Fword", "rt:p@ss"),
        ('token: "s3cr3t:@"', "s3cr3t%3A%40", "s3cr3t"),
    ],
    ids=["user and password", "token"],
)
@pytest.mark.gen_test
async def test_a_user_is_who_the_address_says(
    tmp_path: Path, authorization: str, right: str, wrong: str
) -> None:
    with nats_server(tmp_path / "nats", more=f"authorization {{ {authorization} }}") as server:
        assert await works(by(right, server))
        for address in (by(wrong, server), server.url):
            with pytest.raises(LogOpenError, match="Authorization Violation") as raised:
                await works(address)
            assert wrong not in str(raised.value)


class Signer:
    """An operator with an account and a user, as the configuration of a server and a file."""

    def __init__(self) -> None:
        account = nkeys.PREFIX_BYTE_ACCOUNT
        kinds = (nkeys.PREFIX_BYTE_OPERATOR, account, nkeys.PREFIX_BYTE_USER, account)
        self._seeds = [bytes(nkeys.encode_seed(os.urandom(32), kind)) for kind in kinds]
        self._operator, self._account, self._user, self._system = (
            nkeys.from_seed(bytearray(seed)) for seed in self._seeds
        )

    def server(self) -> str:
        operator = self._jwt(self._operator, self._operator, {"type": "operator"})
        limits = dict.fromkeys(
            ("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1
        ) | {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
        claims = {"type": "account", "limits": {**limits, "wildcards": True}}
        account = self._jwt(self._account, self._operator, claims)
        # JetStream asks for one of the system.
        system = self._jwt(self._system, self._operator, {"type": "account"})
        return (
            f"operator: {operator}\nresolver: MEMORY\nsystem_account: {_public(self._system)}\n"
            f"resolver_preload: {{ {_public(self._account)}: {account}\n"
            f" {_public(self._system)}: {system} }}"
        )

    def file(self, path: Path) -> Path:
        limits = dict.fromkeys(("subs", "data", "payload"), -1)
        jwt = self._jwt(self._user, self._account, {"type": "user", **limits})
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{self._seeds[2].decode()}\n"
            "------END USER NKEY SEED------\n"
        )
        return path

    @staticmethod
    def _jwt(whose: Any, by: Any, claims: dict[str, Any]) -> str:
        body = {
            "iss": _public(by),
            "sub": _public(whose),
            "name": "tests",
            "iat": 1,
            "nats": {"version": 2, **claims},
        }
        body["jti"] = hashlib.sha256(json.dumps(body).encode()).hexdigest()
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        text = ".".join(_encoded(json.dumps(part).encode()) for part in (head, body))
        return f"{text}.{_encoded(by.sign(text.encode()))}"


def _public(pair: Any) -> str:
    return bytes(pair.public_key).decode()


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@pytest.mark.gen_test
async def test_a_user_is_who_the_credentials_file_says(tmp_path: Path) -> None:
    signer = Signer()
    with nats_server(tmp_path / "nats", more=signer.server()) as server:
        right = signer.file(tmp_path / "right.creds")
        assert await works(server.url, credentials=right)
        stranger = Signer().file(tmp_path / "wrong.creds")
        with pytest.raises(LogOpenError, match="Authorization Violation"):
            await works(server.url, credentials=stranger)
        # It is read for each connection.
        async with open_nats([server.url], "RT", credentials=right) as log:
            right.write_text("of no use any more")
            server.kill()
            server.start()
            connection = log._jet.connection  # noqa: SLF001 - what it knows of its tries
            await eventually(lambda: "holds no JWT" in str(connection.last_error))
            signer.file(right)
            await eventually(lambda: connection.is_connected)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "holds no JWT and seed"),
        ("-----BEGIN NATS USER JWT-----\nx\n------END NATS USER JWT------\n", "holds no JWT"),
        ("-----BEGIN USER NKEY SEED-----\nSU\n------END USER NKEY SEED------\n", "no user's"),
        (None, "No such file"),
    ],
)
def test_a_credentials_file_that_is_of_no_use_is_told(
    tmp_path: Path, text: str | None, why: str
) -> None:
    path = tmp_path / "user.creds"
    if text is not None:
        path.write_text(text)
    with pytest.raises(LogOpenError, match=rf"\[nats\] credentials .*user\.creds: .*{why}"):
        Credentials(path).callbacks()


@pytest.mark.gen_test
async def test_a_server_that_takes_nothing_more_holds_nobody_up(tmp_path: Path) -> None:
    large = emission(payload='"%s"' % ("x" * 500_000))
    with nats_server(tmp_path / "nats") as server:
        async with open_nats([server.url], "RT") as log:
            connection = log._jet.connection  # noqa: SLF001 - what waits in it
            with server.halted():
                async with asyncio.timeout(PATIENCE.total_seconds()):
                    for _ in range(60):
                        await log.peers.tell(large, 0)
                    # The rest was given up, and of a commit nothing was sent.
                    assert UNSENT < connection.pending_data_size < UNSENT + 1_000_000
                    with pytest.raises(LogUnavailableError, match="stands still"):
                        await log.append([[large]])


@pytest.mark.gen_test
async def test_the_end_of_a_log_whose_server_stands_still_comes(tmp_path: Path) -> None:
    large = emission(payload='"%s"' % ("x" * 500_000))
    with nats_server(tmp_path / "nats") as server:
        opening = open_nats([server.url], "RT")
        log = await opening.__aenter__()
        with server.halted():
            for _ in range(40):
                await log.peers.tell(large, 0)
            async with asyncio.timeout(PATIENCE.total_seconds()):
                await opening.__aexit__(None, None, None)


@pytest.mark.gen_test
async def test_tries_to_connect_that_fail_leave_no_socket_behind(tmp_path: Path) -> None:
    with nats_server(tmp_path / "nats") as server, warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", ResourceWarning)
        async with cable(server) as way:
            async with open_nats([way.url], "RT") as log:
                connection = log._jet.connection  # noqa: SLF001 - what it knows of its tries
                way.cut()
                tried = way.accepted
                await eventually(lambda: way.accepted >= tried + 3)
                way.mend()
                await eventually(lambda: connection.is_connected)
        gc.collect()
    assert [str(each.message) for each in seen] == []


@pytest.mark.gen_test
async def test_a_user_who_is_refused_later_is_told_so_until_it_is_taken_again(
    tmp_path: Path,
) -> None:
    login = 'authorization {{ user: "rt", password: "{}" }}'
    with nats_server(tmp_path / "nats", more=login.format("one")) as server:
        async with open_nats([by("rt:one", server)], "RT") as log:
            assert log.peers.fault is None
            server.configure(login.format("two"))
            await eventually(lambda: "Authorization Violation" in str(log.peers.fault))
            with pytest.raises(LogUnavailableError, match="not connected to NATS"):
                await log.probe()
            server.configure(login.format("one"))
            await eventually(lambda: log.peers.fault is None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.gen_test
async def test_a_server_that_ends_and_starts_again_is_found_again(
    tmp_path: Path, number: signal.Signals
) -> None:
    with nats_server(tmp_path / "nats") as server:
        async with open_nats([server.url], "RT") as log:
            await stored(log, emission())
            server.end(number)
            await eventually(lambda: log.peers.fault is not None)
            server.start()

            async def probed() -> bool:
                try:
                    await log.probe()
                except (LogUnavailableError, LogUncertainError):
                    return False
                return True

            await eventually(probed)
            await stored(log, emission())
            assert seqs(await page(log))[0] == 1
