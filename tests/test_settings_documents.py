"""``config.ini`` and ``docs/configuration.md`` say what the settings are."""

import re
from pathlib import Path

import pytest

from archibald_rt.errors import ConfigError
from archibald_rt.settings import Settings, describe, load
from archibald_rt.settings.schema import KEYS

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "config.ini"
PAGE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
SECRETS = {"jwt_secret", "emit_tokens", "read_tokens", "webhook_secret"}

ALL = describe(Settings())


def documented() -> dict[tuple[str, str], tuple[str, str]]:
    """Return default and meaning by section and key, from the tables of the page."""
    found = {}
    section = ""
    for line in PAGE.splitlines():
        if line.startswith("#"):
            section = line.lstrip("# ")
        elif match := re.fullmatch(r"\| `(\w+)` \| (.+?) \| (.+) \|", line):
            found[section, match[1]] = (match[2], match[3])
    return found


def test_the_example_gives_exactly_the_defaults() -> None:
    assert load(EXAMPLE, required=True, environ={}) == Settings()


def test_the_example_has_every_key_and_no_other() -> None:
    section = ""
    found = []
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = match[1]
        elif match := re.fullmatch(r"(?:# )?(\w+) = .+", line):
            found.append((section, match[1]))
    found.remove(("auth", "jwt_secret_file"))
    found.remove(("auth", "jwt_public_key_file"))
    assert found == [(row.section, row.key) for row in ALL]


def test_the_example_writes_out_every_default_and_no_secret() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    for row in ALL:
        if row.value:
            assert f"{row.key} = {row.value}" in lines
        elif row.key in SECRETS:
            assert f"# {row.key} = ..." in lines


def test_the_page_has_every_key_with_its_default() -> None:
    keys = documented()
    for row in describe(Settings()):
        default, _ = keys.pop((row.section, row.key))
        if row.value:
            assert default.startswith("`")
            written = KEYS[row.section][row.key].parse(default.strip("`"))
            assert written == KEYS[row.section][row.key].default, row
        else:
            assert default == "–", row
    assert keys == {}


def test_the_mistakes_on_the_page_read_like_that(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, required=False, environ={"ARCHIBALD_RT_LOG_MAX_AGE": "7 weeks"})
    assert f"\n{caught.value}\n" in PAGE
    path = tmp_path / "config.ini"
    path.write_text("[server]\nprot = 9000\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path, required=True, environ={})
    assert f"\n{caught.value}\n".replace(f"{tmp_path}/", "") in PAGE
