"""The table of docs/guarantees.md has a row for every fault that the suite produces."""

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "guarantees.md"
SUITE = sorted((ROOT / "tests" / "faults").glob("test_*.py"))


def declared() -> Counter[str]:
    """Return the faults that tests declare by ``pytest.mark.fault``, without running them."""
    names: Counter[str] = Counter()
    for path in SUITE:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fault":
                (name,) = (ast.literal_eval(argument) for argument in node.args)
                names[name] += 1
    return names


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
