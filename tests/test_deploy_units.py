"""The systemd units of docs/deploy are good, and a server runs as they say and as they confine it.

There is no systemd here to start them. So the server is started on the units' own command line,
with the sockets, credentials and environment that they name, under the system calls that they
leave to it; systemd's own tools judge the rest.
"""

import asyncio
import contextlib
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from signal import SIGHUP, SIGTERM

import pytest

from archibald_rt.listen import BACKLOG, RESERVED_DESCRIPTORS
from archibald_rt.service import LONGEST_CLOSE
from archibald_rt.settings import Settings, load
from processes import ACTIVATED, PATIENCE, ServerProcess, environment
from support import EMIT_TOKEN, SECRET, Harness, settings_for, token
from units import CONFINED, FOLDER, Unit, allowed_calls, analyze, only, unit, words

SERVICE = unit("archibald-rt.service")
BACKUP = unit("archibald-rt-backup.service")
SOCKETS = [unit("archibald-rt.socket"), unit("archibald-rt-internal.socket")]
PROGRAM = "/opt/archibald-rt/bin/archibald-rt"
CONFIG = "/etc/archibald-rt/config.ini"

SECRETS = {"jwt_secret": SECRET, "emit_tokens": EMIT_TOKEN}


def shipped_settings() -> Settings:
    """Return the settings of the shipped config.ini, with secrets."""
    secrets = {("internal", "emit_tokens"): EMIT_TOKEN, ("auth", "jwt_secret"): SECRET}
    return load(FOLDER / "config.ini", required=True, environ={}, overrides=secrets)


def seconds(text: str) -> float:
    """Return a time of a unit that is written as bare seconds."""
    return float(text)


# What stands in them


@pytest.fixture
def copies(tmp_path: Path) -> list[str]:
    """Copies of all units that name a program which is there."""
    paths = []
    for path in sorted(FOLDER.glob("archibald-rt*.*")):
        copy = tmp_path / path.name
        copy.write_text(path.read_text().replace(PROGRAM, "/bin/true"))
        paths.append(str(copy))
    return paths


@pytest.mark.needs("systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_units(copies: list[str]) -> None:
    assert len(copies) == 5
    done = analyze("verify", "--man=no", *copies)
    assert done.returncode == 0
    assert "archibald-rt" not in done.stdout + done.stderr


@pytest.mark.needs("systemd-analyze")
def test_the_services_are_hardly_exposed(copies: list[str]) -> None:
    services = [path for path in copies if path.endswith(".service")]
    assert len(services) == 2
    for service in services:
        # In tenths: 1.2 and 0.6 by systemd 252. A service without a sandbox has 9.6.
        done = analyze("security", "--offline=true", "--no-pager", "--threshold=15", service)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_service_has_time_and_descriptors_for_what_its_settings_allow() -> None:
    settings = shipped_settings()
    assert seconds(only(SERVICE, "Service.TimeoutStopSec")) > settings.server.drain + LONGEST_CLOSE
    descriptors = int(only(SERVICE, "Service.LimitNOFILE"))
    assert descriptors >= settings.server.max_connections + RESERVED_DESCRIPTORS
    assert only(SERVICE, "Service.Type") == "notify"
    assert only(SERVICE, "Service.Restart") == "always"
    assert only(SERVICE, "Unit.StartLimitIntervalSec") == "0"
    assert only(SERVICE, "Service.ExecReload") == "/bin/kill -HUP $MAINPID"


def test_the_sockets_are_where_the_settings_say_and_on_the_loopback() -> None:
    settings = shipped_settings()
    assert [
        (only(each, "Socket.FileDescriptorName"), only(each, "Socket.ListenStream"))
        for each in SOCKETS
    ] == [
        ("public", f"{settings.server.host}:{settings.server.port}"),
        ("internal", f"{settings.internal.host}:{settings.internal.port}"),
    ]
    assert settings.server.host == settings.internal.host == "127.0.0.1"
    assert {only(each, "Socket.Backlog") for each in SOCKETS} == {str(BACKLOG)}


def test_only_the_folder_that_the_log_is_in_can_be_written() -> None:
    (folder,) = only(SERVICE, "Service.StateDirectory").split()
    assert shipped_settings().log.path == Path("/var/lib") / folder / "events.db"
    assert only(SERVICE, "Service.ProtectSystem") == "strict"
    assert not [key for key in SERVICE if "ReadWritePaths" in key]


def test_the_backup_is_as_confined_as_the_server() -> None:
    hardening = re.compile(
        "Protect|Private|Restrict|System|Lock|Memory(Deny)|NoNew|Cap|Amb|UMask|User"
    )
    for key, value in SERVICE.items():
        if hardening.match(key.partition(".")[2]) and not key.endswith("RestrictAddressFamilies"):
            assert BACKUP[key] == value, key
    assert only(BACKUP, "Service.RestrictAddressFamilies") == "AF_UNIX"


def test_the_timer_starts_the_backup() -> None:
    timer = unit("archibald-rt-backup.timer")
    assert "Timer.Unit" not in timer, "it starts the service of its own name"
    assert only(timer, "Install.WantedBy") == "timers.target"


def test_the_page_leads_to_every_file_and_to_no_other() -> None:
    page = (FOLDER.parent / "deploy.md").read_text()
    assert set(re.findall(r"\]\(deploy/([\w.-]+)\)", page)) == {
        path.name for path in FOLDER.iterdir()
    }


# As they say


class Manager:
    """Hears what a service tells its manager."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(PATIENCE)
        self._socket.bind(str(self.path))

    def hears(self, start: str) -> str:
        """Return the next message that begins so, letting signs of life pass."""
        while not (message := self._socket.recv(4096).decode()).startswith(start):
            assert message.startswith("WATCHDOG=1"), message
        return message

    def close(self) -> None:
        self._socket.close()


def environment_of(service: Unit, credentials: Path) -> dict[str, str | None]:
    """Return the environment that a unit sets, and nothing of what tests usually set."""
    unset = dict.fromkeys(name for name in environment(Path()) if name.startswith("ARCHIBALD_RT_"))
    lines = [line.replace("%d", str(credentials)) for line in service["Service.Environment"]]
    return {**unset, **dict(line.split("=", 1) for line in lines)}


def loaded_credentials(service: Unit, folder: Path) -> Path:
    """Make the files that ``LoadCredential`` makes; returns their folder."""
    folder.mkdir(mode=0o700)
    for line in service["Service.LoadCredential"]:
        name, source = line.split(":")
        assert source == f"/etc/archibald-rt/{name}"
        (folder / name).write_text(f"{SECRETS[name]}\n")
        (folder / name).chmod(0o400)
    return folder


@contextmanager
def served_by_the_unit(
    folder: Path, manager: Manager, *, confined: bool
) -> Iterator[ServerProcess]:
    """Run the unit's own command line with all that the unit gives to it, but for systemd."""
    (folder / "config.ini").write_text((FOLDER / "config.ini").read_text())
    program, *rest = words(only(SERVICE, "Service.ExecStart"))
    assert program == PROGRAM
    arguments = [word.replace(CONFIG, str(folder / "config.ini")) for word in rest]
    command = [sys.executable, "-W", "error", "-m", "archibald_rt", *arguments]
    with contextlib.ExitStack() as opened:
        given = [
            opened.enter_context(
                # On a port that is free here.
                socket.create_server((only(each, "Socket.ListenStream").partition(":")[0], 0))
            )
            for each in SOCKETS
        ]
        names = ":".join(only(each, "Socket.FileDescriptorName") for each in SOCKETS)
        numbers = [each.fileno() for each in given]
        command = [sys.executable, "-c", ACTIVATED, ",".join(map(str, numbers)), *command]
        if confined:
            calls = allowed_calls(SERVICE["Service.SystemCallFilter"])
            families = only(SERVICE, "Service.RestrictAddressFamilies").split()
            named = [str(int(getattr(socket, family))) for family in families]
            assert only(SERVICE, "Service.MemoryDenyWriteExecute") == "yes"
            confinement = [",".join(sorted(calls)), ",".join(named)]
            command = [sys.executable, "-c", CONFINED, *confinement, *command]
        extra: Mapping[str, str | None] = {
            **environment_of(SERVICE, loaded_credentials(SERVICE, folder / "credentials")),
            "ARCHIBALD_RT_LOG_PATH": str(folder / "events.db"),
            "LISTEN_FDNAMES": names,
            "NOTIFY_SOCKET": str(manager.path),
            "WATCHDOG_USEC": str(int(seconds(only(SERVICE, "Service.WatchdogSec")) * 1_000_000)),
        }
        process = subprocess.Popen(
            command,
            pass_fds=numbers,
            cwd=folder,
            env=environment(folder, extra),
            umask=int(only(SERVICE, "Service.UMask"), 8),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                yield ServerProcess(process)
            finally:
                if process.poll() is None:
                    process.kill()


@pytest.mark.needs("systemd-analyze")
def test_a_server_works_as_its_unit_starts_and_confines_it(tmp_path: Path) -> None:
    async def emit_and_receive(server: ServerProcess) -> None:
        outside = Harness(server, settings_for(tmp_path))
        # The shipped settings take no token that never expires.
        lasting = token("u", exp=time.time() + 3600)
        async with await outside.open({"token": lasting}) as device:
            await device.until("rt.live")
            assert (await outside.emit({"userId": "u", "type": "DONE"}))["durable"]
            assert (await device.next())["type"] == "DONE"

    manager = Manager(tmp_path)
    with (
        contextlib.closing(manager),
        served_by_the_unit(tmp_path, manager, confined=True) as server,
    ):
        assert manager.hears("READY=1").endswith(server.internal_url)
        status = Path(f"/proc/{server.pid}/status").read_text()
        # A filter of system calls, and no way out of it.
        assert re.search(r"^Seccomp:\t2$", status, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
        asyncio.run(emit_and_receive(server))
        assert (tmp_path / "events.db").stat().st_mode & 0o777 == 0o600
        server.signal(SIGHUP)
        assert manager.hears("RELOADING=1")
        assert server.line("reloaded")
        assert manager.hears("READY=1")
        server.signal(SIGTERM)
        assert manager.hears("STOPPING=1")
        assert server.wait() == 0
        server.check_log()


@pytest.mark.needs("systemd-analyze")
def test_the_confinement_of_these_tests_confines(tmp_path: Path) -> None:
    tries = """
import mmap, os, socket
def refused(attempt):
    try:
        attempt()
    except PermissionError:
        return True
    return False
assert refused(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
assert refused(lambda: os.sched_setaffinity(0, {0}))
assert refused(lambda: os.chroot("/"))
assert refused(lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC))
socket.socket().close()
mmap.mmap(-1, 4096).close()
"""
    calls = allowed_calls(SERVICE["Service.SystemCallFilter"])
    families = ",".join(str(int(family)) for family in (socket.AF_UNIX, socket.AF_INET))
    done = subprocess.run(
        [sys.executable, "-c", CONFINED, ",".join(calls), families, sys.executable, "-c", tries],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_night_makes_a_backup_looks_at_it_and_keeps_seven(tmp_path: Path) -> None:
    def run(folder: Path, *command: str) -> str:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    backups = tmp_path / "backups"
    backups.mkdir()
    (tmp_path / "config.ini").write_text("")
    line = (
        '{"format":"archibald-rt log","version":1,"epoch":"e","head":0,"last":0,"watermarks":[]}\n'
    )
    (tmp_path / "empty").write_text(line)
    archibald_rt = [sys.executable, "-m", "archibald_rt"]
    run(tmp_path, *archibald_rt, "log", "import", str(tmp_path / "empty"))
    older = [f"events-202601{day:02}T033000Z.db" for day in range(1, 10)]
    for name in older:
        shutil.copy(tmp_path / "events.db", backups / name)

    stand_in = tmp_path / "archibald-rt"
    stand_in.write_text(f'#!/bin/sh\nexec {" ".join(archibald_rt)} "$@"\n')
    stand_in.chmod(0o755)
    said = []
    for text in BACKUP["Service.ExecStart"]:
        here = text.replace(PROGRAM, str(stand_in)).replace(CONFIG, str(tmp_path / "config.ini"))
        said.append(run(backups, *words(here)))

    kept = sorted(path.name for path in backups.iterdir())
    assert kept[:-1] == older[-6:]
    assert re.fullmatch(r"events-\d{8}T\d{6}Z\.db", kept[-1])
    assert kept[-1] > older[-1]
    assert kept[-1] in said[0]
    assert said[1] == "the log is good\n"
