"""Asks pip-audit whether vulnerabilities are known in what the project installs, tests included.

Called by scripts/test. One that is known fails it. Where nobody can be asked that is said in one
line and goes by, for neither work without a network nor a mend is to wait for somebody else's
service; --required, or AUDIT_REQUIRED=1, makes that a failure as well.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Any

import click
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "archibald-rt[test]"
NAMED = 5
"""How many packages are named of those that could not be asked for."""


def needed(root: str) -> dict[str, str]:
    """Return the installed versions of all that a requirement brings along, by their names."""
    found: dict[str, str] = {}
    done: set[str] = set()
    left = [Requirement(root)]
    while left:
        requirement = left.pop()
        if str(requirement) in done:
            continue
        done.add(str(requirement))
        try:
            package = distribution(requirement.name)
        except PackageNotFoundError:
            # What is for another system or Python.
            continue
        name = canonicalize_name(requirement.name)
        if name != Requirement(root).name:
            found[name] = package.version
        left += _required_by(package, requirement.extras)
    return dict(sorted(found.items()))


def _required_by(package: Distribution, extras: Iterable[str]) -> Iterable[Requirement]:
    for text in package.requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        requirement.marker = None
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def judged(report: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return what is vulnerable, a line each, and the names of what nothing could be said of."""
    vulnerable, unknown = [], []
    for package in report["dependencies"]:
        if "skip_reason" in package:
            unknown.append(package["name"])
        for each in package.get("vulns", ()):
            mended = ", ".join(each["fix_versions"]) or "no version yet"
            line = f"{package['name']} {package['version']}: {each['id']}, mended in {mended}"
            vulnerable.append(line)
    return vulnerable, unknown


def asked(packages: dict[str, str]) -> dict[str, Any] | None:
    """Return what pip-audit says of these versions; None if it could ask nobody."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.writelines(f"{name}=={version}\n" for name, version in packages.items())
        file.flush()
        ended = subprocess.run(  # noqa: S603 - our own words
            [
                *(sys.executable, "-m", "pip_audit", "-r", file.name, "--no-deps"),
                *("--disable-pip", "--progress-spinner", "off", "-f", "json"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    try:
        report: dict[str, Any] = json.loads(ended.stdout)
    except ValueError:
        return None
    return report


@click.command(help=__doc__)
@click.option("--required", is_flag=True, envvar="AUDIT_REQUIRED")
@click.option("--report", type=click.File(), help="What pip-audit said, instead of asking it.")
def main(report: Any, *, required: bool) -> None:
    """Ask, and say what came of it."""
    packages = needed(PROJECT)
    said = asked(packages) if report is None else json.load(report)
    vulnerable, unknown = ([], list(packages)) if said is None else judged(said)
    for line in vulnerable:
        click.echo(f"audit: {line}", err=True)
    if unknown:
        names = ", ".join(unknown[:NAMED]) + (", ..." if len(unknown) > NAMED else "")
        click.echo(
            f"audit: {len(unknown)} of {len(packages)} packages could NOT be asked for ({names})",
            err=True,
        )
    elif not vulnerable:
        click.echo(f"audit: nothing is known of {len(packages)} packages", err=True)
    sys.exit(1 if vulnerable or (unknown and required) else 0)


if __name__ == "__main__":
    main()
