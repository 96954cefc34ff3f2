"""The systemd units of docs/deploy, read, and what they confine a process by."""

import shlex
import subprocess
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from system import program

FOLDER = Path(__file__).parent.parent / "docs" / "deploy"

Unit = dict[str, list[str]]

# Loads a filter of system calls, such as systemd makes of a unit's directives, and becomes the
# program that follows. The arguments are the calls that are allowed and the address families.
CONFINED = """
import ctypes, errno, os, sys

class Comparison(ctypes.Structure):
    _fields_ = [("argument", ctypes.c_uint), ("operation", ctypes.c_int),
                ("first", ctypes.c_uint64), ("second", ctypes.c_uint64)]

EQUAL, MASKED_EQUAL = 4, 7
WRITE, EXECUTE = 2, 4
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM

library = ctypes.CDLL("libseccomp.so.2")
library.seccomp_init.restype = ctypes.c_void_p
library.seccomp_init.argtypes = [ctypes.c_uint32]
library.seccomp_rule_add_array.argtypes = [
    ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(Comparison)]
library.seccomp_load.argtypes = [ctypes.c_void_p]
made = library.seccomp_init(REFUSE)

def allow(name, *comparisons):
    number = library.seccomp_syscall_resolve_name(name.encode())
    # Negative: none of this architecture.
    if number >= 0:
        given = (Comparison * len(comparisons))(*comparisons)
        failed = library.seccomp_rule_add_array(made, ALLOW, number, len(given), given)
        assert not failed, (name, failed)

for name in set(sys.argv[1].split(",")) - {"socket", "mmap", "mprotect", "pkey_mprotect"}:
    allow(name)
for family in sys.argv[2].split(","):
    allow("socket", Comparison(0, EQUAL, int(family), 0))
# MemoryDenyWriteExecute: nothing that can be written can be executed, now or later.
for protection in (0, WRITE, EXECUTE):
    allow("mmap", Comparison(2, MASKED_EQUAL, WRITE | EXECUTE, protection))
allow("mprotect", Comparison(2, MASKED_EQUAL, EXECUTE, 0))
assert not library.seccomp_load(made)
os.execv(sys.argv[3], sys.argv[3:])
"""


def unit(name: str) -> Unit:
    """Return what a unit says, by ``Section.Key``, in the order of the file."""
    said: Unit = defaultdict(list)
    section = ""
    for line in (FOLDER / name).read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            said[f"{section}.{key}"].append(value)
    return dict(said)


def only(said: Unit, key: str) -> str:
    """Return the value of a key that stands there once."""
    (value,) = said[key]
    return value


def words(line: str) -> list[str]:
    """Return the words of a command line in a unit, without specifiers."""
    return [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line)]


def analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run ``systemd-analyze``."""
    found = program("systemd-analyze")
    assert found is not None
    return subprocess.run([found, *arguments], capture_output=True, text=True, check=False)


def allowed_calls(filters: Sequence[str]) -> set[str]:
    """Return the system calls that the values of ``SystemCallFilter`` let through."""
    groups = _groups()
    allowed: set[str] = set()
    for line in filters:
        calls: set[str] = set()
        for name in line.removeprefix("~").split():
            calls |= groups[name] if name.startswith("@") else {name}
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    return allowed


def _groups() -> dict[str, set[str]]:
    """Return systemd's groups of system calls."""
    listed: dict[str, set[str]] = {}
    group: set[str] = set()
    for line in analyze("syscall-filter").stdout.splitlines():
        text = line.strip()
        if line.startswith("@"):
            group = listed.setdefault(text, set())
        elif line.startswith("#"):
            # Behind the groups stand those calls that are in none.
            group = set()
        elif text and not text.startswith("#"):
            group.add(text)

    def expanded(name: str) -> set[str]:
        return {
            call
            for each in listed[name]
            for call in (expanded(each) if each.startswith("@") else {each})
        }

    return {name: expanded(name) for name in listed}
