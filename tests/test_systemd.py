"""What systemd hands over and hears: ``systemd``, without any systemd."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from archibald_rt import systemd
from archibald_rt.errors import ListenError
from archibald_rt.systemd import Inherited, Notifier, inherited_sockets
from support import PATIENCE, eventually

FIRST = 900
"""Where the tests hand descriptors over: the real place is taken in this process."""


@pytest.fixture(autouse=True)
def _place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "FIRST_DESCRIPTOR", FIRST)


@pytest.fixture
def open_ones() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def listening(open_ones: contextlib.ExitStack, family: int = socket.AF_INET) -> socket.socket:
    if family == socket.AF_UNIX:
        made = open_ones.enter_context(socket.socket(family))
        made.bind(b"")  # the system finds an abstract name
        made.listen()
        return made
    return open_ones.enter_context(socket.create_server(("127.0.0.1", 0)))


def handed(
    open_ones: contextlib.ExitStack, *sockets: socket.socket, names: str | None = None
) -> dict[str, str]:
    """Hand sockets over to this process; returns the environment that says so."""
    for place, each in enumerate(sockets):
        os.dup2(each.fileno(), FIRST + place)
        open_ones.callback(close_if_open, FIRST + place)
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(sockets)), "OTHER": "kept"}
    return environ if names is None else {**environ, "LISTEN_FDNAMES": names}


def close_if_open(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        os.close(descriptor)


def addresses(inherited: Inherited) -> tuple[list[object], list[object]]:
    return (
        [each.getsockname() for each in inherited.public],
        [each.getsockname() for each in inherited.internal],
    )


def test_named_sockets_go_to_their_listener_in_whatever_order(
    open_ones: contextlib.ExitStack,
) -> None:
    first, second, third = (listening(open_ones) for _ in range(3))
    environ = handed(open_ones, first, second, third, names="internal:public:internal")
    with inherited_sockets(environ) as inherited:
        assert addresses(inherited) == (
            [second.getsockname()],
            [first.getsockname(), third.getsockname()],
        )
    assert environ == {"OTHER": "kept"}


@pytest.mark.parametrize(
    "names", [None, "unknown:unknown", ":", "archibald-rt.socket:archibald-rt.socket"]
)
def test_of_sockets_without_names_the_first_is_public_and_the_second_internal(
    open_ones: contextlib.ExitStack, names: str | None
) -> None:
    first, second = listening(open_ones), listening(open_ones, socket.AF_UNIX)
    with inherited_sockets(handed(open_ones, first, second, names=names)) as inherited:
        assert addresses(inherited) == ([first.getsockname()], [second.getsockname()])


@pytest.mark.parametrize(("name", "place"), [(None, 0), ("public", 0), ("internal", 1)])
def test_a_single_socket_leaves_the_other_listener_without(
    open_ones: contextlib.ExitStack, name: str | None, place: int
) -> None:
    only = listening(open_ones)
    with inherited_sockets(handed(open_ones, only, names=name)) as inherited:
        found = addresses(inherited)
        assert found[place] == [only.getsockname()]
        assert found[1 - place] == []


def test_our_copy_is_closed_at_the_end_and_the_other_goes_on_listening(
    open_ones: contextlib.ExitStack,
) -> None:
    held = listening(open_ones)
    with inherited_sockets(handed(open_ones, held)) as inherited:
        (ours,) = inherited.public
        assert ours.fileno() == FIRST
        assert not ours.get_inheritable()
        assert not ours.getblocking()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(FIRST)
    with socket.create_connection(held.getsockname()):
        held.settimeout(PATIENCE.total_seconds())
        held.accept()[0].close()


def test_what_is_another_processs_is_left_alone_and_not_handed_on(
    open_ones: contextlib.ExitStack,
) -> None:
    environ = handed(open_ones, listening(open_ones)) | {"LISTEN_PID": str(os.getppid())}
    with inherited_sockets(environ) as inherited:
        assert inherited == Inherited()
    assert environ == {"OTHER": "kept"}
    os.fstat(FIRST)


def test_without_the_variables_nothing_is_inherited() -> None:
    with inherited_sockets({}) as inherited:
        assert inherited == Inherited()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"LISTEN_PID": "me"}, "LISTEN_PID: expected a positive number, got 'me'"),
        ({"LISTEN_FDS": "0"}, "LISTEN_FDS: expected a positive number, got '0'"),
        ({"LISTEN_FDS": "-1"}, "LISTEN_FDS: expected a positive number, got '-1'"),
        ({"LISTEN_FDS": "1_0"}, "LISTEN_FDS: expected a positive number, got '1_0'"),
        ({"LISTEN_FDS": "9" * 5000}, "LISTEN_FDS: expected a positive number, got '999"),
        ({"LISTEN_FDS": "3"}, "LISTEN_FDS: 3 sockets without names"),
        ({"LISTEN_FDS": "2"}, "LISTEN_FDS: descriptor 901 .*: Bad file descriptor"),
        ({"LISTEN_FDNAMES": "public:internal"}, "LISTEN_FDNAMES: 2 names for 1 sockets"),
        ({"LISTEN_FDNAMES": "web"}, "LISTEN_FDNAMES: expected public or internal, got 'web'"),
        (
            {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "public:archibald-rt.socket"},
            "LISTEN_FDNAMES: expected public or internal, got 'archibald-rt.socket'",
        ),
    ],
)
def test_odd_variables_are_refused_in_one_line(
    open_ones: contextlib.ExitStack, given: dict[str, str], words: str
) -> None:
    environ = handed(open_ones, listening(open_ones)) | given
    with pytest.raises(ListenError, match=words) as refused:
        open_ones.enter_context(inherited_sockets(environ))
    assert "\n" not in str(refused.value)
    assert environ == {"OTHER": "kept"}


def test_what_is_no_listening_stream_socket_is_refused_and_left_open(
    open_ones: contextlib.ExitStack,
) -> None:
    datagram = open_ones.enter_context(socket.socket(type=socket.SOCK_DGRAM))
    datagram.bind(("127.0.0.1", 0))
    idle = open_ones.enter_context(socket.socket())
    connected, other = socket.socketpair()
    open_ones.enter_context(connected)
    open_ones.enter_context(other)
    packets = open_ones.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    packets.bind(b"")
    packets.listen()
    for odd in (datagram, idle, connected, packets):
        with pytest.raises(ListenError, match=r"descriptor 900 is no listening stream socket$"):
            open_ones.enter_context(inherited_sockets(handed(open_ones, odd)))
        os.fstat(FIRST)
    with open(os.devnull) as file:  # noqa: PTH123 - no path, a descriptor is what is needed
        os.dup2(file.fileno(), FIRST)
        with pytest.raises(ListenError, match=r"900 .*: Socket operation on non-socket"):
            open_ones.enter_context(
                inherited_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"})
            )


class Manager:
    """A service manager that reads its mail when the test wants to."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(0)
        self.socket.bind("\0" + address[1:] if address[0] == "@" else address)

    async def message(self) -> str:
        receiving = asyncio.get_running_loop().sock_recv(self.socket, 4096)
        return (await asyncio.wait_for(receiving, PATIENCE.total_seconds())).decode()

    def fill(self) -> int:
        """Send until no more is taken; returns how many messages wait."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(0)
            sender.connect(self.socket.getsockname())
            count = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    sender.send(b"FILLING=1")
                    count += 1
        return count


@pytest.fixture(params=["path", "abstract"])
def manager(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Manager]:
    path = str(tmp_path / "notify")
    made = Manager(path if request.param == "path" else f"@{path}")
    with made.socket:
        yield made


@pytest.mark.gen_test
async def test_a_manager_is_told_of_the_start_and_the_end(manager: Manager) -> None:
    environ = {"NOTIFY_SOCKET": manager.address, "OTHER": "kept"}
    notifier = Notifier.from_environ(environ)
    assert environ == {"OTHER": "kept"}
    await notifier.ready("listening")
    assert await manager.message() == "READY=1\nSTATUS=listening"
    await notifier.stopping("draining", within=40.5)
    assert await manager.message() == ("STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=40500000")


@pytest.mark.parametrize("pid", [{}, {"WATCHDOG_PID": str(os.getpid())}])
@pytest.mark.gen_test
async def test_signs_of_life_come_twice_in_an_interval_until_the_end(
    manager: Manager, pid: dict[str, str]
) -> None:
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000", **pid}
    notifier = Notifier.from_environ(environ)
    assert environ == {}
    loop = asyncio.get_running_loop()
    async with notifier.signs_of_life():
        began = loop.time()
        assert [await manager.message() for _ in range(5)] == ["WATCHDOG=1"] * 5
        # The first comes at once.
        assert loop.time() - began > 0.35
    await notifier.ready("the last")
    assert (await manager.message()).startswith("READY=1")


@pytest.mark.parametrize(
    ("environ", "warned"),
    [
        ({}, False),
        ({"WATCHDOG_USEC": "1000", "WATCHDOG_PID": str(os.getppid())}, False),
        ({"WATCHDOG_USEC": "often"}, True),
        ({"WATCHDOG_USEC": "0"}, True),
    ],
)
@pytest.mark.gen_test
async def test_no_sign_of_life_is_given_where_none_is_expected(
    tmp_path: Path, environ: dict[str, str], *, warned: bool
) -> None:
    manager = Manager(str(tmp_path / "notify"))
    with manager.socket, capture_logs() as entries:
        notifier = Notifier.from_environ({"NOTIFY_SOCKET": manager.address, **environ})
        async with notifier.signs_of_life():
            await asyncio.sleep(0)
            await notifier.ready("the first")
            assert (await manager.message()).startswith("READY=1")
    assert [entry["log_level"] for entry in entries] == ["warning"] * warned


@pytest.mark.parametrize("address", ["/nowhere/notify", "@nobody", "vsock:2:1", "/" + "x" * 200])
@pytest.mark.gen_test
async def test_that_the_manager_cannot_be_told_is_logged_once_and_nothing_else(
    address: str,
) -> None:
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000"})
    with capture_logs() as entries:
        async with notifier.signs_of_life():
            await notifier.ready("listening")
            await notifier.stopping("draining", within=1)
    (entry,) = entries
    assert entry["log_level"] == "warning"
    assert entry["socket"] == address
    assert entry["reason"]


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}])
@pytest.mark.gen_test
async def test_without_a_manager_nobody_is_told(environ: dict[str, str]) -> None:
    notifier = Notifier.from_environ({"WATCHDOG_USEC": "1000", **environ})
    with capture_logs() as entries:
        async with notifier.signs_of_life():
            await notifier.ready("listening")
            await notifier.stopping("draining", within=1)
    assert entries == []


@pytest.mark.gen_test
async def test_a_message_waits_for_a_manager_that_is_busy(manager: Manager) -> None:
    waiting = manager.fill()
    telling = asyncio.create_task(Notifier(manager.address).ready("listening"))
    with capture_logs() as entries:
        for _ in range(waiting):
            assert await manager.message() == "FILLING=1"
        assert (await manager.message()).startswith("READY=1")
        await telling
    assert entries == []


@pytest.mark.gen_test
async def test_a_manager_that_takes_nothing_is_not_waited_for(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "PATIENCE", 0.05)
    manager.fill()
    with capture_logs() as entries:
        telling = asyncio.create_task(Notifier(manager.address).ready("listening"))
        await eventually(telling.done)
    assert [entry["reason"] for entry in entries] == ["it takes nothing"]
