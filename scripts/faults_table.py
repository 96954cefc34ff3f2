"""Makes a markdown table of what the fault suite has measured. Called by scripts/faults."""

import json
from pathlib import Path

import click

BEGIN, END = "<!-- table -->", "<!-- /table -->"
HEAD = "| fault | how it is produced | tried | checked | lost | seen |"
RULE = "| --- | --- | --- | --- | --- | --- |"


def cell(value: object) -> str:
    """Write a value so that it stays within its cell."""
    return " ".join(str(value).split()).replace("|", "\\|")


def measured(report: Path) -> dict[str, str]:
    """Return the measured rows by their fault, in the order in which they were taken down."""
    rows: dict[str, str] = {}
    for line in report.read_text().splitlines():
        values = json.loads(line)
        names = ("fault", "how", "tried", "checked", "lost", "figures")
        rows[cell(values["fault"])] = f"| {' | '.join(cell(values[name]) for name in names)} |"
    return rows


def table(rows: dict[str, str]) -> str:
    """Return a whole table."""
    return "\n".join([HEAD, RULE, *rows.values()])


def merged(page: str, rows: dict[str, str]) -> str:
    """Return a page with these rows in its table: anew, or in place of those of their faults."""
    before, begin, rest = page.partition(BEGIN)
    old, end, after = rest.partition(END)
    if not begin or not end:
        raise click.ClickException(f"the page has no {BEGIN} with {END} after it")
    lines = [line for line in old.splitlines() if line.startswith("| ")][2:]
    kept = {line.removeprefix("| ").split(" | ")[0]: line for line in lines}
    return f"{before}{BEGIN}\n{table(kept | rows)}\n{END}{after}"


@click.command()
@click.argument("report", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--write",
    "page",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Put the rows into the table of this page; rows of other faults stay.",
)
def main(report: Path, page: Path | None) -> None:
    """Print what REPORT holds as a table."""
    rows = measured(report)
    if page is None:
        print(table(rows))
    else:
        page.write_text(merged(page.read_text(), rows))


if __name__ == "__main__":
    main()
