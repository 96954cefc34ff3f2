"""Listening sockets: ``listen``."""

import resource
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from archibald_rt.errors import ListenError
from archibald_rt.listen import (
    RESERVED_DESCRIPTORS,
    Endpoint,
    descriptors_for_devices,
    raise_descriptor_limit,
    url_of,
)
from support import descriptors


@contextmanager
def bound(endpoint: Endpoint) -> Iterator[Sequence[socket.socket]]:
    sockets = endpoint.bind()
    try:
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


def refusal(endpoint: Endpoint) -> str:
    with pytest.raises(ListenError) as caught:
        endpoint.bind()
    message = str(caught.value)
    assert message.startswith("can't listen on ")
    assert "\n" not in message
    assert not message.endswith(": ")
    assert "None" not in message
    return message


def test_port_0_takes_a_free_one_and_the_url_tells_which() -> None:
    with bound(Endpoint("127.0.0.1", 0)) as sockets:
        host, port = sockets[0].getsockname()
        assert (host, port > 0) == ("127.0.0.1", True)
        assert url_of(sockets) == f"http://127.0.0.1:{port}"
        with socket.create_connection((host, port), timeout=5):
            accepted, _ = sockets[0].accept()
            accepted.close()


@pytest.mark.parametrize("host", ["localhost", ""])
def test_all_sockets_of_a_name_have_the_same_port(host: str) -> None:
    with bound(Endpoint(host, 0)) as sockets:
        assert len({sock.getsockname()[1] for sock in sockets}) == 1


@pytest.mark.skipif(not socket.has_ipv6, reason="the system has no IPv6")
def test_an_ipv6_address_stands_in_brackets_in_the_url() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("there is no ::1 here")
    with bound(Endpoint("::1", 0)) as sockets:
        assert url_of(sockets) == f"http://[::1]:{sockets[0].getsockname()[1]}"


def test_a_path_is_listened_on_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "rt.sock"
    with bound(Endpoint("ignored.invalid", 1, path, 0o600)) as sockets:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert url_of(sockets) == f"unix:{path}"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            accepted, _ = sockets[0].accept()
            accepted.close()


def test_a_path_may_be_used_by_its_owner_and_group_by_default(tmp_path: Path) -> None:
    path = tmp_path / "rt.sock"
    with bound(Endpoint("", 0, path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_a_socket_that_a_crash_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "rt.sock"
    with bound(Endpoint("", 0, path)):
        pass
    assert path.exists()
    with bound(Endpoint("", 0, path)), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_port_in_use_is_named() -> None:
    with bound(Endpoint("127.0.0.1", 0)) as sockets:
        port = sockets[0].getsockname()[1]
        message = refusal(Endpoint("127.0.0.1", port))
        assert f"127.0.0.1:{port}" in message
        assert "in use" in message


@pytest.mark.parametrize("host", ["203.0.113.1", "name\0", "a" * 70 + ".example", "not an address"])
def test_an_address_that_is_not_ours_or_none_at_all_is_refused(host: str) -> None:
    assert f"{host}:0" in refusal(Endpoint(host, 0))


def test_a_path_that_is_no_socket_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "rt.sock"
    path.write_text("somebody's file")
    assert "no socket" in refusal(Endpoint("", 0, path))
    assert path.read_text() == "somebody's file"


def test_a_path_in_no_folder_or_too_long_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing" / "rt.sock", tmp_path / ("x" * 200)):
        before = open_descriptors()
        assert str(path) in refusal(Endpoint("", 0, path))
        assert open_descriptors() == before


def open_descriptors() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


def test_as_many_descriptors_as_the_system_allows_may_be_open() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with descriptors(256):
        assert raise_descriptor_limit() == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
        assert raise_descriptor_limit() == hard


def test_some_descriptors_are_not_for_devices() -> None:
    with descriptors(RESERVED_DESCRIPTORS + 156):
        assert descriptors_for_devices() == 156
    with descriptors(RESERVED_DESCRIPTORS - 10):
        assert descriptors_for_devices() == 1
