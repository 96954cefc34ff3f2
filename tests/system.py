"""What tests need of the machine: its programs, mounts, and the right to use them."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path

EXPRESS = Path(__file__).parent / "express"
"""Where the packages of Node are that tests use."""

_SEARCHED = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def program(name: str) -> str | None:
    """Return the path of a program; None where it isn't installed."""
    return shutil.which(name, path=_SEARCHED)


def as_root(*command: str) -> list[str]:
    """Return a command line that runs a command as root: by itself, or by sudo."""
    found = program(command[0]) or command[0]
    return [*([] if os.geteuid() == 0 else ["sudo", "-n"]), found, *command[1:]]


def run_as_root(*command: str) -> str:
    """Run a command as root to its end and return its output; fails if it fails."""
    done = subprocess.run(as_root(*command), capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


@contextmanager
def mounted(what: str, at: Path, *, kind: str, options: str) -> Iterator[Path]:
    """Mount a file system, of our own user, for the length of a block."""
    at.mkdir(parents=True, exist_ok=True)
    run_as_root("mount", "-t", kind, "-o", options, what, str(at))
    try:
        if os.geteuid() != 0:
            run_as_root("chown", f"{os.getuid()}:{os.getgid()}", str(at))
        yield at
    finally:
        run_as_root("umount", str(at))


@contextmanager
def tmpfs(at: Path, *, size: int) -> Iterator[Path]:
    """Mount a file system in memory that holds just so many bytes."""
    with mounted("none", at, kind="tmpfs", options=f"size={size}"):
        yield at


def make_ext4(image: Path, *, size: int) -> None:
    """Make a file that holds an ext4 file system of so many bytes."""
    with image.open("wb") as file:
        file.truncate(size)
    mkfs = program("mkfs.ext4")
    assert mkfs is not None
    # Without lazy initialisation: no thread of the kernel writes to it later.
    options = ["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"]
    subprocess.run([mkfs, *options, str(image)], check=True, capture_output=True)


@contextmanager
def ext4(image: Path, at: Path) -> Iterator[Path]:
    """Mount the ext4 file system in a file."""
    with mounted(str(image), at, kind="ext4", options="loop"):
        yield at


def missing(need: str) -> str | None:
    """Say what this machine lacks; None where it has it.

    A need is a program's name, or ``tmpfs`` or ``loop``: such a file system can be mounted; or
    ``express``: that package of Node, which is installed beside the tests the first time.
    """
    if need in _ABILITIES:
        return _ABILITIES[need]()
    return None if program(need) else f"{need} is not installed"


@cache
def _root() -> str | None:
    if os.geteuid() == 0:
        return None
    if program("sudo") is None:
        return "neither root nor sudo"
    done = subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False)
    return None if done.returncode == 0 else "not root, and sudo asks for a password"


@cache
def _tmpfs() -> str | None:
    return _root() or _tried(lambda folder: tmpfs(folder, size=65536))


@cache
def _loop() -> str | None:
    if program("mkfs.ext4") is None:
        return "mkfs.ext4 is not installed"
    with tempfile.NamedTemporaryFile() as image:
        make_ext4(Path(image.name), size=2 * 1024 * 1024)
        return _root() or _tried(lambda folder: ext4(Path(image.name), folder))


def _tried(mount: Callable[[Path], AbstractContextManager[Path]]) -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            with mount(Path(folder)):
                return None
        except (AssertionError, OSError) as error:
            return f"can't be mounted here: {error}"


@cache
def _express() -> str | None:
    if program("node") is None or program("npm") is None:
        return "node and npm are not installed"
    wanted = json.loads((EXPRESS / "package.json").read_text())["dependencies"]["express"]
    installed = EXPRESS / "node_modules" / "express" / "package.json"
    if installed.exists() and json.loads(installed.read_text())["version"] == wanted:
        return None
    # The version stands in package.json; a lock file would name the registry it was made with.
    command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund"]
    command += ["--ignore-scripts", "--loglevel=error"]
    done = subprocess.run(command, cwd=EXPRESS, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"npm install: {done.stderr.strip()}"


_ABILITIES = {"tmpfs": _tmpfs, "loop": _loop, "express": _express}
