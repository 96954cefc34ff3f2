"""``/internal/connections`` and ``/internal/stats``: what the console and operators look at."""

import contextlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from described import component
from support import Harness, harness, problem_of
from watching import overtax, unread


async def listed(at: Harness, query: str = "") -> dict[str, Any]:
    """Return who is connected, which has to be as it is described."""
    answer: dict[str, Any] = json.loads((await at.get(f"/internal/connections{query}")).body)
    component("Connections").validate(answer)
    return answer


def users(answer: dict[str, Any]) -> list[str]:
    return [each["userId"] for each in answer["connections"]]


@pytest.mark.gen_test
async def test_a_slow_device_is_first_of_many_and_says_how_far_it_is_behind(
    tmp_path: Path,
) -> None:
    async with (
        harness(tmp_path, {"delivery.max_outbox": "128KiB"}) as at,
        contextlib.AsyncExitStack() as stack,
    ):
        for number in range(5):
            await stack.enter_async_context(await at.connect(f"user{number}"))
        await stack.enter_async_context(unread(at, "slow"))
        for number in range(5, 8):
            await stack.enter_async_context(await at.connect(f"user{number}"))
        await overtax(at, "slow")
        head = (await at.stats())["log"]["head"]
        answer = await listed(at, "?sort=slow&limit=2")
        assert answer["total"] == 9
        slow, other = answer["connections"]
        assert (slow["userId"], slow["state"]) == ("slow", "behind")
        assert head - slow["position"] >= slow["behindBy"] > 0
        assert slow["outboxBytes"] > 0
        assert (other["state"], other["behindBy"], other["outboxBytes"]) == ("live", 0, 0)
        assert slow["address"] == other["address"] == "127.0.0.1"
        assert min(slow["silentMs"], other["silentMs"], other["roundTripMs"]) >= 0


@pytest.mark.gen_test
async def test_connections_are_found_by_user_text_and_age(tmp_path: Path) -> None:
    async with harness(tmp_path) as at, contextlib.AsyncExitStack() as stack:
        for user in ("b/é?&", "a", "B/É?&", "b/é?&"):
            await stack.enter_async_context(await at.connect(user))
        assert users(await listed(at, f"?user={quote('b/é?&')}")) == ["b/é?&"] * 2
        assert users(await listed(at, f"?search={quote('/É')}&sort=newest")) == [
            *("b/é?&", "B/É?&", "b/é?&"),
        ]
        oldest = await listed(at, "?sort=oldest")
        assert users(oldest) == ["b/é?&", "a", "B/É?&", "b/é?&"]
        connection = oldest["connections"][1]["connection"]
        assert users(await listed(at, f"?search={connection[3:12]}")) == ["a"]
        assert (await listed(at, "?search=127.0.0.1&limit=1"))["total"] == 4
        assert await listed(at, "?search=nobody") == {"connections": [], "total": 0}
        assert await listed(at, "?user=nobody&sort=&search=") == {"connections": [], "total": 0}
        for query, field in (
            *(("limit=0", "limit"), ("limit=100001", "limit"), ("limit=", "limit")),
            *(("sort=best", "sort"), ("user=a%00", "user"), ("search=" + "x" * 201, "search")),
        ):
            refused = await at.get(f"/internal/connections?{query}")
            assert refused.code == 400
            assert problem_of(refused)["field"] == field


@pytest.mark.gen_test
async def test_the_figures_of_the_log_have_its_limit(tmp_path: Path) -> None:
    async with harness(tmp_path, {"log.max_size": "5MiB"}) as at:
        assert (await at.stats())["log"]["limit"] == 5 * 1024 * 1024
    (tmp_path / "other").mkdir()
    async with harness(tmp_path / "other", {"log.max_size": "0"}) as at:
        assert (await at.stats())["log"]["limit"] is None
