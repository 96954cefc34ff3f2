"""docs/guarantees.md has a row for every fault of the suite, CI the programs for all of them."""

import ast
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "guarantees.md"
SUITE = sorted((ROOT / "tests" / "faults").glob("test_*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))

# The programs behind what tests need besides programs (tests/system.py).
ABILITIES = {"tmpfs": {"mount"}, "loop": {"mount", "mkfs.ext4"}, "express": {"node", "npm"}}


def marked(marker: str, tests: list[Path]) -> Counter[str]:
    """Return what tests say by a marker, without running them."""
    names: Counter[str] = Counter()
    for path in tests:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == f"pytest.mark.{marker}":
                names.update(ast.literal_eval(argument) for argument in node.args)
    return names


def declared() -> Counter[str]:
    """Return the faults that tests produce."""
    return marked("fault", SUITE)


def rows() -> list[list[str]]:
    """Return the cells of the table's rows, without its head."""
    table = PAGE.read_text().partition("<!-- table -->")[2].partition("<!-- /table -->")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_fault_has_one_test() -> None:
    assert declared()
    assert {name: count for name, count in declared().items() if count != 1} == {}


def test_the_table_holds_just_the_faults_of_the_suite() -> None:
    assert Counter(row[0] for row in rows()) == declared()


def test_every_row_says_how_it_was_tried_and_that_nothing_was_lost() -> None:
    for row in rows():
        fault, how, tried, checked, lost, _figures = row
        assert "" not in {fault, how, tried, checked}, row
        assert lost == "0", row


def test_the_docs_lead_to_the_page() -> None:
    assert "docs/guarantees.md" in (ROOT / "README.md").read_text()


def test_ci_installs_just_the_programs_that_tests_need() -> None:
    installed = re.findall(r"^need ([\w.-]+) ", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    needed: set[str] = set()
    for need in marked("needs", TESTS):
        needed |= ABILITIES.get(need, {need})
    assert sorted(installed) == sorted(needed)


# The table's script


def make_table(report: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    script = str(ROOT / "scripts" / "faults_table.py")
    return subprocess.run(
        [sys.executable, script, str(report), *options], capture_output=True, text=True, check=False
    )


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """Two rows as the suite takes them down."""
    rows = [
        {
            "fault": "flood",
            "how": "a | b",
            "tried": "2",
            "checked": "all",
            "lost": 0,
            "figures": "",
        },
        {
            "fault": "fire",
            "how": "a\nmatch",
            "tried": "1",
            "checked": "x",
            "lost": 3,
            "figures": "f",
        },
    ]
    path = tmp_path / "report"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_table_has_a_row_for_each_fault(report: Path) -> None:
    done = make_table(report)
    assert done.stdout.splitlines() == [
        "| fault | how it is produced | tried | checked | lost | seen |",
        "| --- | --- | --- | --- | --- | --- |",
        "| flood | a \\| b | 2 | all | 0 |  |",
        "| fire | a match | 1 | x | 3 | f |",
    ]


def test_the_table_takes_the_place_of_the_rows_it_has_measured(
    report: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    old = ["| head |", "| --- |", "| quake | a | b | c | 0 | d |", "| flood | e | f | g | 0 | h |"]
    page.write_text("\n".join(["before", "<!-- table -->", *old, "<!-- /table -->", "after"]))
    for _ in range(2):
        assert make_table(report, "--write", str(page)).returncode == 0
        assert page.read_text().splitlines() == [
            "before",
            "<!-- table -->",
            "| fault | how it is produced | tried | checked | lost | seen |",
            "| --- | --- | --- | --- | --- | --- |",
            "| quake | a | b | c | 0 | d |",
            "| flood | a \\| b | 2 | all | 0 |  |",
            "| fire | a match | 1 | x | 3 | f |",
            "<!-- /table -->",
            "after",
        ]


def test_a_page_without_a_place_for_the_table_is_left_as_it_is(
    report: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text("no table")
    done = make_table(report, "--write", str(page))
    assert done.returncode == 1
    assert done.stderr == "Error: the page has no <!-- table --> with <!-- /table --> after it\n"
    assert page.read_text() == "no table"
