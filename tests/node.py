"""Programs on Node for tests: its own ones, and what `tests/web/package.json` asks for."""

import json
import subprocess
from pathlib import Path

from system import program

WEB = Path(__file__).parent / "web"


def run(*command: str | Path, folder: Path) -> str:
    """Run a program to its end and return what it prints; fails if it fails."""
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def npm(*words: str | Path, folder: Path) -> str:
    """Run npm in a folder."""
    return run(str(program("npm")), *words, folder=folder)


def tool(name: str) -> Path:
    """Return the path of a program of the packages, which are installed if they aren't yet."""
    wanted = json.loads((WEB / "package.json").read_text())["dependencies"]
    if any(_installed(package) != version for package, version in wanted.items()):
        # Exact versions are in package.json; a lock file would name the registry it was made with.
        quiet = ("--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error")
        npm("install", "--ignore-scripts", *quiet, folder=WEB)
    return WEB / "node_modules" / ".bin" / name


def _installed(package: str) -> str | None:
    path = WEB / "node_modules" / package / "package.json"
    return str(json.loads(path.read_text())["version"]) if path.exists() else None
