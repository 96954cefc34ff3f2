"""The server as a process of its own: ``service``."""

import contextlib
import http.client
import json
import os
import resource
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from issuer import certificate_files, issuing, jwk, pem, signed
from processes import PATIENCE, ServerProcess, command, serving, started, wait_until
from support import EMIT_TOKEN, SECRET, handshake, token


def test_sigterm_drains_and_exits_with_0(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert server.listening["connections"] > 0
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        rest = server.rest()
    assert "draining" in rest
    assert "stopped" in rest


def test_a_second_signal_ends_at_once_with_1(tmp_path: Path) -> None:
    with serving(tmp_path, {"ARCHIBALD_RT_SERVER_DRAIN": "60s"}) as server:
        with contextlib.ExitStack() as devices:
            for _ in range(20):
                devices.enter_context(device(server.public_url))
            server.signal(signal.SIGTERM)
            server.line("draining")
            server.signal(signal.SIGTERM)
            assert server.wait() == 1


def test_it_raises_its_limit_of_descriptors_and_says_how_many_connections_that_allows(
    tmp_path: Path,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        with serving(tmp_path) as server:
            assert server.listening["file_descriptors"] == hard
            assert server.listening["connections"] == min(20000, hard - 100)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("extra", "code", "words"),
    [
        ({"ARCHIBALD_RT_AUTH_JWT_SECRET": ""}, 2, "[auth] jwt_secret"),
        ({"ARCHIBALD_RT_INTERNAL_EMIT_TOKENS": "short"}, 2, "[internal] emit_tokens"),
        ({"ARCHIBALD_RT_SERVER_PROT": "1"}, 2, "SERVER_PORT"),
        (
            {"ARCHIBALD_RT_LOG_ENGINE": "nats", "ARCHIBALD_RT_NATS_SERVERS": "nats://127.0.0.1:1"},
            1,
            "[nats] servers",
        ),
        ({"ARCHIBALD_RT_LOG_PATH": "/dev/null/x.db"}, 1, "/dev/null/x.db"),
        ({"ARCHIBALD_RT_LOG_PATH": "/"}, 1, "log /"),
        ({"ARCHIBALD_RT_AUTH_ALGORITHMS": "RS256"}, 2, "[auth] algorithms"),
        ({"ARCHIBALD_RT_SERVER_HOST": "192.0.2.1"}, 1, "192.0.2.1"),
        ({"LISTEN_PID": "nobody", "LISTEN_FDS": "1"}, 1, "LISTEN_PID"),
    ],
)
def test_what_keeps_it_from_starting_is_said_in_one_line(
    tmp_path: Path, extra: dict[str, str], code: int, words: str
) -> None:
    ended = command(tmp_path, "serve", extra=extra)
    assert ended.returncode == code
    assert words in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("archibald-rt: ")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """A service manager's socket, at ``notify``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.settimeout(PATIENCE)
        made.bind(str(tmp_path / "notify"))
        yield made


def message(manager: socket.socket) -> list[str]:
    """Return the next message that is no sign of life, as its assignments."""
    while (text := manager.recv(4096).decode()) == "WATCHDOG=1":
        pass
    return text.split("\n")


def test_the_manager_is_told_of_the_start_once_and_of_the_drain(
    tmp_path: Path, manager: socket.socket
) -> None:
    extra = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "ARCHIBALD_RT_SERVER_DRAIN": "2s"}
    with serving(tmp_path, extra) as server:
        ready, status = message(manager)
        assert ready == "READY=1"
        assert status == f"STATUS=listening on {server.public_url} and {server.internal_url}"
        manager.settimeout(0)
        with pytest.raises(BlockingIOError):
            message(manager)
        manager.settimeout(PATIENCE)
        with device(server.public_url):
            server.signal(signal.SIGTERM)
            stopping, status, extension = message(manager)
            assert (stopping, status) == ("STOPPING=1", "STATUS=draining within 2 s")
            # The drain and what may come after it, in microseconds.
            assert extension == "EXTEND_TIMEOUT_USEC=32000000"
        assert server.wait() == 0


def test_whoever_is_told_that_it_is_ready_can_connect_at_once(
    tmp_path: Path, manager: socket.socket
) -> None:
    extra = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    with started(tmp_path, "serve", extra=extra):
        ready, status = message(manager)
        assert ready == "READY=1"
        with device(status.split()[2]):
            pass


def test_signs_of_life_come_until_the_end_also_while_it_drains(
    tmp_path: Path, manager: socket.socket
) -> None:
    extra = {
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "WATCHDOG_USEC": "200000",
        "ARCHIBALD_RT_SERVER_DRAIN": "20s",
    }
    began = time.monotonic()
    with serving(tmp_path, extra) as server:
        assert message(manager)[0] == "READY=1"
        assert [manager.recv(4096) for _ in range(20)] == [b"WATCHDOG=1"] * 20
        # One in half of the time that it has, and two to begin with.
        assert time.monotonic() - began > 18 * 0.1
        with contextlib.ExitStack() as devices:
            for _ in range(20):
                devices.enter_context(device(server.public_url))
            server.signal(signal.SIGTERM)
            assert message(manager)[0] == "STOPPING=1"
            assert [manager.recv(4096) for _ in range(5)] == [b"WATCHDOG=1"] * 5
            server.signal(signal.SIGTERM)
            assert server.wait() == 1


def test_a_manager_that_is_not_there_keeps_nothing_from_working(tmp_path: Path) -> None:
    extra = {"NOTIFY_SOCKET": str(tmp_path / "nothing"), "WATCHDOG_USEC": "100000"}
    with serving(tmp_path, extra) as server:
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        entries = [line["event"] for line in server.lines] + [server.rest()]
    assert "".join(entries).count("can't notify the service manager") == 1


@contextlib.contextmanager
def device(public_url: str) -> Iterator[socket.socket]:
    """Connect a device by WebSocket."""
    address = urlsplit(public_url)
    with socket.create_connection((address.hostname, address.port), PATIENCE) as made:
        made.sendall(handshake(token("u")))
        assert made.recv(4096).startswith(b"HTTP/1.1 101")
        yield made


def test_a_listener_that_inherits_nothing_listens_where_it_is_configured(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        with serving(tmp_path, {"LISTEN_FDNAMES": "internal"}, sockets=[held]) as server:
            assert server.internal_url == "http://{}:{}".format(*held.getsockname())
            assert server.lines[0] | {"public": 0, "internal": 1} == server.lines[0]
            assert server.lines[0]["event"] == "sockets inherited"
            with device(server.public_url):
                pass


def test_all_sockets_of_a_listener_are_listened_on(tmp_path: Path) -> None:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        with serving(tmp_path, {"LISTEN_FDNAMES": "public:public"}, sockets=sockets):
            for each in sockets:
                with device("http://{}:{}".format(*each.getsockname())):
                    pass


# Reload

UNSET = {"ARCHIBALD_RT_INTERNAL_EMIT_TOKENS": None, "ARCHIBALD_RT_AUTH_JWT_SECRET": None}
OTHER_SECRET = "another-secret-for-tests-of-thirty-two-bytes"
OTHER_TOKEN = "another-emit-token-for-tests-of-thirty-two-bytes"


def configured(folder: Path, *more: str, secret: str = SECRET, emit: str = EMIT_TOKEN) -> None:
    """Write a ``config.ini`` for a server whose environment has no secrets."""
    lines = ["[internal]", f"emit_tokens = {emit}", "[auth]", f"jwt_secret = {secret}", *more]
    (folder / "config.ini").write_text("\n".join(lines), encoding="utf-8")


@contextlib.contextmanager
def reloadable(folder: Path, extra: dict[str, str] | None = None) -> Iterator[ServerProcess]:
    with serving(folder, {**(extra or {}), **UNSET}) as server:
        yield server


def reloaded(server: ServerProcess, event: str = "reloaded") -> dict[str, Any]:
    server.signal(signal.SIGHUP)
    line = server.line("reloaded", "reload failed, nothing was changed")
    assert line["event"] == event, line
    return line


def accepts(server: ServerProcess, text: str) -> bool:
    """Whether a v1 device with this token is let in."""
    address = urlsplit(server.public_url)
    with socket.create_connection((address.hostname, address.port), PATIENCE) as made:
        made.sendall(handshake(text))
        # Of a refusal the close frame follows; of a welcome the answer to a ping.
        made.sendall(bytes((0x81, 0x84)) + bytes(4) + b"ping")
        received = b""
        while not received.endswith((b"pong", b"Authentication failed")):
            more = made.recv(4096)
            assert more, received
            received += more
        return received.endswith(b"pong")


def emits(server: ServerProcess, emit_token: str) -> int:
    """Return the status that an emission with this token is answered with."""
    address = urlsplit(server.internal_url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        body = json.dumps({"userId": "u", "type": "A"})
        headers = {"Authorization": f"Bearer {emit_token}", "Content-Type": "application/json"}
        connection.request("POST", "/internal/emit", body, headers)
        return connection.getresponse().status


def test_sighup_puts_other_secrets_and_emit_tokens_into_effect_and_devices_stay(
    tmp_path: Path,
) -> None:
    configured(tmp_path)
    old, new = token("u"), token("u", secret=OTHER_SECRET)
    with reloadable(tmp_path) as server, device(server.public_url) as connected:
        assert (accepts(server, old), accepts(server, new)) == (True, False)
        assert (emits(server, EMIT_TOKEN), emits(server, OTHER_TOKEN)) == (200, 401)
        configured(
            tmp_path, secret=f"{SECRET}, {OTHER_SECRET}", emit=f"{EMIT_TOKEN}\n  {OTHER_TOKEN}"
        )
        assert reloaded(server)["changed"] == "internal.emit_tokens, auth.jwt_secret"
        assert (accepts(server, old), accepts(server, new)) == (True, True)
        assert (emits(server, EMIT_TOKEN), emits(server, OTHER_TOKEN)) == (200, 200)
        configured(tmp_path, secret=OTHER_SECRET, emit=OTHER_TOKEN)
        reloaded(server)
        # The old one was remembered from the connects before.
        assert (accepts(server, old), accepts(server, new)) == (False, True)
        assert (emits(server, EMIT_TOKEN), emits(server, OTHER_TOKEN)) == (401, 200)
        connected.sendall(bytes((0x81, 0x84)) + bytes(4) + b"ping")
        received = b""
        while not received.endswith(b"pong"):
            received += connected.recv(65536)
        assert reloaded(server)["changed"] == "nothing"


def test_sighup_goes_from_secrets_to_public_keys_and_to_a_key_set(tmp_path: Path) -> None:
    configured(tmp_path)
    (tmp_path / "key.pem").write_text(pem("P-256"), encoding="utf-8")
    with reloadable(tmp_path) as server, issuing(jwk("rsa2048", kid="a")) as issuer:
        assert accepts(server, token("u"))
        key_file = f"jwt_public_key_file = {tmp_path / 'key.pem'}"
        configured(tmp_path, key_file, "algorithms = HS256, ES256")
        assert reloaded(server)["changed"] == "auth.jwt_public_key, auth.algorithms"
        assert accepts(server, token("u"))
        assert accepts(server, signed("P-256"))
        configured(tmp_path, f"jwks_url = {issuer.url}", "algorithms = RS256", secret="")
        reloaded(server)
        assert not accepts(server, token("u"))
        assert not accepts(server, signed("P-256"))
        assert accepts(server, signed("rsa2048", kid="a"))
        # The set is fetched anew at a reload, whatever its age.
        issuer.publish(jwk("rsa2048", 1, kid="b"))
        reloaded(server)
        wait_until(
            lambda: not accepts(server, signed("rsa2048", kid="a")), otherwise="it was not fetched"
        )
        # A file that has changed, under the same name.
        configured(tmp_path, key_file, "algorithms = ES256", secret="")
        reloaded(server)
        (tmp_path / "key.pem").write_text(pem("P-256", 1), encoding="utf-8")
        assert reloaded(server)["changed"] == "auth.jwt_public_key"
        assert not accepts(server, signed("P-256"))
        assert accepts(server, signed("P-256", number=1))


def test_a_file_that_is_never_read_to_its_end_keeps_no_server_from_ending(tmp_path: Path) -> None:
    configured(tmp_path)
    with reloadable(tmp_path) as server:
        (tmp_path / "config.ini").unlink()
        os.mkfifo(tmp_path / "config.ini")
        server.signal(signal.SIGHUP)
        # Its thread opens the pipe, and so does this end, which then says nothing.
        with (tmp_path / "config.ini").open("wb"):
            server.signal(signal.SIGTERM)
            assert server.wait() == 0


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["algorithms = RS256"], "[auth] algorithms"),
        (["prot = 1"], "[auth] has no key prot"),
        (["jwks_url = http://example.com/"], "[auth] jwks_url"),
        (["[server]", "tls_cert = a", "tls_key = b"], "[server] tls_cert"),
    ],
)
def test_a_broken_configuration_changes_nothing_and_is_told_in_one_line(
    tmp_path: Path, lines: list[str], words: str
) -> None:
    configured(tmp_path)
    with reloadable(tmp_path) as server:
        configured(tmp_path, *lines, secret=OTHER_SECRET, emit=OTHER_TOKEN)
        failed = reloaded(server, "reload failed, nothing was changed")
        assert failed["level"] == "error"
        assert words in failed["reason"]
        assert failed["reason"].isprintable()
        assert (accepts(server, token("u")), emits(server, EMIT_TOKEN)) == (True, 200)
        assert not accepts(server, token("u", secret=OTHER_SECRET))
        (tmp_path / "config.ini").unlink()
        assert "jwt_secret" in reloaded(server, failed["event"])["reason"]
        configured(tmp_path, secret=OTHER_SECRET)
        reloaded(server)
        assert accepts(server, token("u", secret=OTHER_SECRET))


def test_a_key_set_without_an_audience_is_warned_of_at_the_start_and_at_a_reload(
    tmp_path: Path,
) -> None:
    with issuing(jwk("rsa2048", kid="a")) as issuer:
        lines = [f"jwks_url = {issuer.url}", "algorithms = HS256, RS256"]
        configured(tmp_path, *lines)
        with reloadable(tmp_path) as server:
            events = [line["event"] for line in server.lines]
            assert (
                sum(event.startswith("[auth] jwks_url without audience") for event in events) == 1
            )
            server.signal(signal.SIGHUP)
            server.line(next(event for event in events if "without audience" in event))
        configured(tmp_path, *lines, "audience = here")
        with reloadable(tmp_path) as server:
            assert not any("audience" in line["event"] for line in server.lines)


def test_what_a_reload_does_not_reach_is_named_until_the_restart(tmp_path: Path) -> None:
    configured(tmp_path)
    cert, key = certificate_files(tmp_path / "tls")
    with reloadable(tmp_path) as server:
        tls = ["[server]", f"tls_cert = {cert}", f"tls_key = {key}"]
        configured(tmp_path, "issuer = x", *tls, secret=OTHER_SECRET)
        for _ in range(2):
            server.signal(signal.SIGHUP)
            named = server.line("needs a restart")["keys"]
            assert named == "server.tls_cert, server.tls_key, auth.issuer"
        # What it does reach is in effect all the same.
        assert accepts(server, token("u", secret=OTHER_SECRET))
        configured(tmp_path, secret=OTHER_SECRET)
        reloaded(server)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "needs a restart" not in server.rest()


def test_the_manager_is_told_when_a_reload_begins_and_when_it_is_over(
    tmp_path: Path, manager: socket.socket
) -> None:
    extra = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    with serving(tmp_path, extra) as server:
        assert message(manager)[0] == "READY=1"
        for _ in range(2):
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            server.signal(signal.SIGHUP)
            reloading, since, _ = message(manager)
            assert reloading == "RELOADING=1"
            name, _, microseconds = since.partition("=")
            assert name == "MONOTONIC_USEC"
            # systemd takes an answer for this signal's only if it is later.
            assert (
                before <= int(microseconds) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            )
            ready, status = message(manager)
            assert ready == "READY=1"
            assert status.startswith("STATUS=listening on")


def test_no_secret_of_a_reload_is_written(tmp_path: Path) -> None:
    configured(tmp_path)
    with reloadable(tmp_path, {"ARCHIBALD_RT_LOGGING_LEVEL": "debug"}) as server:
        configured(tmp_path, secret=OTHER_SECRET, emit=OTHER_TOKEN)
        reloaded(server)
        configured(tmp_path, secret="short", emit=OTHER_TOKEN)
        reloaded(server, "reload failed, nothing was changed")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        said = json.dumps(server.lines) + server.rest()
    for secret in (SECRET, OTHER_SECRET, EMIT_TOKEN, OTHER_TOKEN, "short"):
        assert secret not in said
