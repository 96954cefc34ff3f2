"""Files that are there whole or not at all: ``eventlog.staging``."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from archibald_rt.errors import LogCopyError
from archibald_rt.eventlog.staging import explained, staged


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "copy"


def test_a_file_is_there_when_the_block_has_ended_well(tmp_path: Path, destination: Path) -> None:
    with staged(destination, mode=0o600) as beside:
        beside.write_text("all of it")
        assert beside.parent == tmp_path
        assert not destination.exists()
    assert destination.read_text() == "all of it"
    assert list(tmp_path.iterdir()) == [destination]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_of_a_block_that_raises(
    tmp_path: Path, destination: Path, error: type[BaseException]
) -> None:
    def fail() -> None:
        with staged(destination, mode=0o600) as beside:
            connection = sqlite3.connect(beside)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE half (x)")
            assert len(list(tmp_path.iterdir())) == 3
            with closing(connection):
                raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_already_stays(tmp_path: Path, destination: Path) -> None:
    destination.write_text("before")
    with pytest.raises(LogCopyError, match="is there already"), staged(destination, mode=0o600):
        raise AssertionError
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    with pytest.raises(LogCopyError, match="is there already"), staged(link, mode=0o600):
        raise AssertionError
    assert destination.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 2


def test_what_has_come_meanwhile_stays(tmp_path: Path, destination: Path) -> None:
    def write() -> None:
        with staged(destination, mode=0o600) as beside:
            beside.write_text("ours")
            destination.write_text("theirs")

    with pytest.raises(LogCopyError, match="is there already"):
        write()
    assert destination.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [destination]


def test_what_is_there_is_replaced_where_that_is_asked_for(
    tmp_path: Path, destination: Path
) -> None:
    destination.write_text("before")
    with staged(destination, mode=0o600, replace=True) as beside:
        beside.write_text("after")
        assert destination.read_text() == "before"
    assert destination.read_text() == "after"
    assert list(tmp_path.iterdir()) == [destination]


def test_the_permissions_are_as_asked_for_but_for_the_umask(destination: Path) -> None:
    with staged(destination, mode=0o602) as beside:
        assert beside.stat().st_mode & 0o777 == 0o600
    assert destination.stat().st_mode & 0o777 == 0o600


def test_what_the_system_refuses_is_one_line(tmp_path: Path) -> None:
    destination = tmp_path / "nowhere" / "copy"
    with pytest.raises(LogCopyError) as caught, staged(destination, mode=0o600):
        raise AssertionError
    assert str(caught.value) == f"{destination}: No such file or directory"


def test_a_reader_that_has_gone_is_no_fault_of_the_file() -> None:
    with pytest.raises(BrokenPipeError), explained("standard output"):
        raise BrokenPipeError
