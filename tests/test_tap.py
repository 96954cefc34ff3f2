"""Who watches: what is sent to whom, in which bounds, and when it ends."""

import asyncio
import json
from typing import Any

import pytest

from archibald_rt.events import Emission, make_tail
from archibald_rt.tap import Tap
from archibald_rt.watcher import Watcher


def emission(user: str | None, type_json: bytes = b'"T"', payload: bytes = b"1") -> Emission:
    tail = make_tail(type_json, payload, "2026-01-01T00:00:00Z")
    return Emission(user, tail, "2026-01-01T00:00:00Z", 0, durable=True)


def watch(tap: Tap, user: str | None = None, *patterns: str) -> Watcher:
    """Watch; what is taken first says what the token is good for, and is left out here."""
    watcher = tap.watch(user, patterns, access="read", admitted=lambda: True)
    assert watcher is not None
    return watcher


async def taken(watcher: Watcher) -> list[dict[str, Any]] | None:
    """Return what waits; None at the end."""
    data = await watcher.take(0)
    if data is None:
        return None
    parts = data.decode().split("\n\n")
    assert parts.pop() == ""
    return [json.loads(part.rpartition("data: ")[2]) for part in parts]


@pytest.mark.gen_test
async def test_an_event_is_written_as_the_emitter_wrote_it() -> None:
    tap = Tap("e")
    watcher = watch(tap)
    await watcher.take(0)
    tap.dispatched(emission('"x', payload=b'{"a":1.00, "b":[]}'), 7, 3)
    assert await watcher.take(0) == (
        b'data: {"userId":"\\"x","id":"e:7","durable":true,"delivered":3,'
        b'"type":"T","payload":{"a":1.00, "b":[]},"timestamp":"2026-01-01T00:00:00Z"}\n\n'
    )
    assert await watcher.take(0) == b""


@pytest.mark.gen_test
async def test_a_type_is_compared_as_it_is_meant_and_a_user_byte_by_byte() -> None:
    tap = Tap("e")
    by_type, by_user = watch(tap, None, "a[bc]"), watch(tap, "Ä")
    for user, type_json in (
        ("x", b'"a\\u0062"'),
        ("Ä", b'"A\\u0062"'),
        ("A\u0308", b'"ac"'),
        (None, b'"ad"'),
    ):
        tap.dispatched(emission(user, type_json), None, 0)
    _, *found = await taken(by_type) or []
    assert [each["userId"] for each in found] == ["x", "A\u0308"]
    _, *found = await taken(by_user) or []
    assert [each["type"] for each in found] == ["Ab"]


@pytest.mark.gen_test
async def test_a_loss_stands_where_it_happened_with_its_number() -> None:
    tap = Tap("e", limit=300)
    watcher = watch(tap)
    await watcher.take(0)
    tap.dispatched(emission("u", payload=b'"%b"' % (b"x" * 300)), 1, 0)
    tap.dispatched(emission("u"), 2, 0)
    tap.connected("u", "c", "v2", None)
    tap.dispatched(emission("v", b'"rare"'), 3, 0)
    found = await taken(watcher) or []
    assert [each.get("id", each["type"]) for each in found] == ["e:1", "rt.dropped"]
    assert found[1]["payload"] == {"count": 3}
    tap.dispatched(emission("u"), 4, 0)
    (event,) = await taken(watcher) or []
    assert event["id"] == "e:4"


@pytest.mark.gen_test
async def test_nothing_follows_the_end_not_even_a_loss() -> None:
    tap = Tap("e", limit=300)
    watcher = watch(tap)
    await watcher.take(0)
    tap.dispatched(emission("u", payload=b'"%b"' % (b"x" * 300)), 1, 0)
    tap.dispatched(emission("u"), 2, 0)
    tap.close()
    found = await taken(watcher) or []
    assert [each["type"] for each in found] == ["T", "rt.dropped", "rt.close"]
    assert found[1]["payload"] == {"count": 1}
    assert await taken(watcher) is None


@pytest.mark.gen_test
async def test_more_is_gathered_for_a_time_but_not_for_one_who_is_filling_up_or_at_the_end() -> (
    None
):
    tap = Tap("e", limit=600)
    watcher = watch(tap)
    await watcher.take(0)
    gathering = asyncio.ensure_future(watcher.gather(3600))
    tap.dispatched(emission("u"), 1, 0)
    await asyncio.sleep(0)
    assert not gathering.done()
    tap.dispatched(emission("u", payload=b'"%b"' % (b"x" * 300)), 2, 0)
    await gathering
    assert len(await taken(watcher) or []) == 2
    # It was taken: the next ones gather anew.
    await watcher.gather(0)
    gathering = asyncio.ensure_future(watcher.gather(3600))
    await asyncio.sleep(0)
    assert not gathering.done()
    tap.close()
    await gathering


@pytest.mark.gen_test
async def test_what_was_not_asked_for_is_no_loss() -> None:
    tap = Tap("e", limit=1)
    watcher = watch(tap, "u", "T")
    for user, type_json in (("u", b'"other"'), ("v", b'"T"')):
        tap.dispatched(emission(user, type_json), 1, 0)
    tap.turned("u", "c", "behind", 1)
    assert watcher.lost == 0
    tap.dispatched(emission("u"), 2, 0)
    assert watcher.lost == 1


@pytest.mark.gen_test
async def test_the_end_comes_behind_what_waits_and_lets_nobody_in() -> None:
    tap = Tap("e")
    watcher = watch(tap)
    tap.dispatched(emission("u"), 1, 0)
    tap.close()
    tap.close()
    tap.dispatched(emission("u"), 2, 0)
    found = await taken(watcher) or []
    assert [each["type"] for each in found] == ["rt.watching", "T", "rt.close"]
    assert await taken(watcher) is None
    assert tap.watch(None, (), access="read", admitted=lambda: True) is None
    assert tap.watchers == {}


@pytest.mark.gen_test
async def test_whoever_closes_watches_no_more_and_makes_room() -> None:
    tap = Tap("e", most=1)
    watcher = watch(tap)
    assert tap.watch(None, (), access="read", admitted=lambda: True) is None
    watcher.close()
    watcher.close()
    assert await watcher.take(0) is None
    watch(tap)
