"""What a reload reaches: ``reload``; what it does, ``test_service`` and ``test_certificates``."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from archibald_rt.errors import ConfigError
from archibald_rt.reload import RELOADABLE
from archibald_rt.server import running
from archibald_rt.settings.schema import KEYS
from support import settings_for, token

PAGE = (Path(__file__).parent.parent / "docs" / "operations.md").read_text(encoding="utf-8")


def test_the_page_names_what_a_reload_reaches() -> None:
    section = PAGE.partition("## Reload")[2].partition("## Rotating")[0]
    named: dict[str, set[str]] = {}
    for line in re.findall(r"^\| `\[(\w+)\]` (.+?) \|", section, re.MULTILINE):
        named[line[0]] = set(re.findall(r"`(\w+)`", line[1]))
    assert named == RELOADABLE
    for name, keys in RELOADABLE.items():
        assert keys <= KEYS[name].keys()


@pytest.mark.gen_test
async def test_a_reload_says_what_changed_and_what_waits_for_a_restart(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, {"server.drain": "200ms"})
    other = "another-secret-for-tests-of-thirty-two-bytes"
    async with running(settings) as server:
        found = server.reload(settings)
        assert (found.changed, found.need_restart) == ((), ())
        changed = replace(
            settings,
            auth=replace(settings.auth, jwt_secret=(other,), leeway=1.0),
            log=replace(settings.log, max_events_per_user=7),
        )
        found = server.reload(changed)
        assert found.changed == ("auth.jwt_secret",)
        assert found.need_restart == ("auth.leeway", "log.max_events_per_user")
        # What is in effect already is said once, what waits every time.
        found = server.reload(changed)
        assert found.changed == ()
        assert found.need_restart == ("auth.leeway", "log.max_events_per_user")
        with pytest.raises(ConfigError):
            server.reload(replace(changed, auth=replace(changed.auth, jwt_secret=())))
        verifier = server._reception._verifier  # noqa: SLF001 - what is in effect, not what is said
        assert verifier.verify(token("u", secret=other)).user == "u"
