"""What Containerfile does, done by hand as far as it goes without an engine: the package is whole.

An image is made of what its instructions copy and run; here the same files make a wheel, which is
unpacked and run from an empty folder, by somebody who may write nothing but the log's folder.
"""

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path
from signal import Signals

import pytest
from packaging.requirements import Requirement

from processes import PATIENCE, ServerProcess, environment

ROOT = Path(__file__).parent.parent

Instructions = list[tuple[str, str]]


def instructions() -> Instructions:
    """Return the instructions of Containerfile, each in one line."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Containerfile").read_text(), flags=re.MULTILINE)
    joined = re.sub(r"\\\n\s*", "", text)
    return [(line.split()[0], line.split(" ", 1)[1]) for line in joined.splitlines() if line]


def final_stage() -> dict[str, str]:
    """Return what the image itself says, by instruction; it says each once but for COPY."""
    stages = instructions()
    begin = max(place for place, (name, _) in enumerate(stages) if name == "FROM")
    return dict(stages[begin:])


def sent(folder: Path) -> None:
    """Copy to a folder what is copied into the image from what is sent to the builder."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    sent_along = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert "*" in lines
    for name, words in instructions():
        if name != "COPY" or words.startswith("--from"):
            continue
        *sources, _target = words.split()
        for source in sources:
            assert source in sent_along, f"{source} is left out by .dockerignore"
            path = ROOT / source
            if path.is_dir():
                shutil.copytree(path, folder / source, ignore=unsent)
            else:
                shutil.copy(path, folder / source)


def unsent(_folder: str, names: list[str]) -> set[str]:
    return set(fnmatch.filter(names, "__pycache__"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel made of what goes into the image and no more."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    sent(source)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(target), str(source)],
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (made,) = target.iterdir()
    return made


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    package = ROOT / "archibald_rt"
    files = {
        str(path.relative_to(ROOT))
        for path in package.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    assert "archibald_rt/py.typed" in files
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("archibald_rt/")}
    assert packed == files


def test_the_wheel_needs_nothing_of_nats_unless_it_is_asked_for(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    needed = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]

    def of(extra: str) -> set[str]:
        return {
            each.name
            for each in needed
            if each.marker is None or each.marker.evaluate({"extra": extra})
        }

    assert "tornado" in of("")
    assert not [name for name in of("") if "nats" in name]
    assert of("nats") - of("") == {"nats-py"}


def test_a_server_runs_from_the_wheel_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    said = final_stage()
    assigned = dict(word.split("=", 1) for word in shlex.split(said["ENV"]))
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    log = Path(assigned["ARCHIBALD_RT_LOG_PATH"])
    assert log.parent == Path(said["VOLUME"]) == Path(said["WORKDIR"])
    # All interfaces are all of a container; here they would be this machine's.
    assert assigned["ARCHIBALD_RT_SERVER_HOST"] == "0.0.0.0"  # noqa: S104 - not bound here
    assert assigned["ARCHIBALD_RT_INTERNAL_HOST"] == "0.0.0.0"  # noqa: S104 - not bound here
    of_the_image = {
        **{name: text for name, text in assigned.items() if name != "PATH"},
        "ARCHIBALD_RT_SERVER_HOST": "127.0.0.1",
        "ARCHIBALD_RT_INTERNAL_HOST": "127.0.0.1",
        "ARCHIBALD_RT_LOG_PATH": str(empty / log.name),
        "PYTHONPATH": str(installed),
    }
    assert json.loads(said["ENTRYPOINT"]) == ["archibald-rt"]
    # And not the package beside these tests.
    found = subprocess.run(
        [sys.executable, "-c", "import archibald_rt; print(archibald_rt.__file__)"],
        cwd=empty,
        env=environment(empty, of_the_image),
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.startswith(str(installed))
    command = [sys.executable, "-m", "archibald_rt", *json.loads(said["CMD"])]
    process = subprocess.Popen(
        command,
        cwd=empty,
        env=environment(empty, of_the_image),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            server = ServerProcess(process)
            check = json.loads(said["HEALTHCHECK"].split("CMD ")[1])
            check[0] = sys.executable
            check[-1] = check[-1].replace("http://127.0.0.1:8080", server.public_url)
            assert subprocess.run(check, timeout=PATIENCE, check=False).returncode == 0
            server.signal(Signals[said["STOPSIGNAL"]])
            assert server.wait() == 0
            server.check_log()
            failed = subprocess.run(check, timeout=PATIENCE, capture_output=True, check=False)
            assert failed.returncode != 0
        finally:
            process.kill()
