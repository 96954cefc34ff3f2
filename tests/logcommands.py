"""``archibald-rt log`` as a program of its own."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from processes import command, environment


def done(
    folder: Path,
    *arguments: str,
    stdin: bytes | None = None,
    extra: Mapping[str, str] | None = None,
) -> str:
    """Run a command that has to succeed; returns what it prints."""
    ended = command(folder, "log", *arguments, stdin=stdin, extra=extra)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def refused(
    folder: Path,
    *arguments: str,
    code: int = 1,
    stdin: bytes | None = None,
    extra: Mapping[str, str] | None = None,
) -> str:
    """Run a command that has to fail; returns its one line."""
    ended = command(folder, "log", *arguments, stdin=stdin, extra=extra)
    assert ended.stdout == ""
    assert ended.returncode == code, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith("archibald-rt: ")
    return line


@contextlib.contextmanager
def begun(
    folder: Path, *arguments: str, extra: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a command for the length of a block, its input open; it is killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "archibald_rt", "log", *arguments],
        cwd=folder,
        env=environment(folder, extra),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
