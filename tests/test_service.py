"""The server as a process of its own: ``service``."""

import contextlib
import resource
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from processes import PATIENCE, command, serving, started
from support import handshake, token


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


def test_it_names_the_settings_that_have_no_effect_yet(tmp_path: Path) -> None:
    with serving(tmp_path, {"ARCHIBALD_RT_DELIVERY_DEVICES_PER_USER": "3"}) as server:
        assert any("delivery.devices_per_user" in line.get("keys", "") for line in server.lines)


@pytest.mark.parametrize(
    ("extra", "code", "words"),
    [
        ({"ARCHIBALD_RT_AUTH_JWT_SECRET": ""}, 2, "[auth] jwt_secret"),
        ({"ARCHIBALD_RT_INTERNAL_EMIT_TOKENS": "short"}, 2, "[internal] emit_tokens"),
        ({"ARCHIBALD_RT_SERVER_PROT": "1"}, 2, "SERVER_PORT"),
        ({"ARCHIBALD_RT_LOG_ENGINE": "nats"}, 2, "[log] engine"),
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
    with serving(tmp_path, extra) as server:
        assert message(manager)[0] == "READY=1"
        began = time.monotonic()
        assert [manager.recv(4096) for _ in range(5)] == [b"WATCHDOG=1"] * 5
        assert time.monotonic() - began > 0.3
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
