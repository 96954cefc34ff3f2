"""Users whose ids look alike, or like something else: nothing of one ever reaches another.

All are connected to one server at once, and each is emitted its own, so that what one gets says
it of every pair.
"""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest

from support import Device, Harness, harness

E_ACUTE = "\u00e9"
USERS = [
    *("*", ">", "?", "%", "_", "a_b", "a%b", "axb", "u.*", "u.>", "u.a", "u"),
    *("a/b", "a%2Fb", "a%2fb", "a%252Fb", "a\\b", "a//b", "a/./b", "/", "..", ".", "../u", "u/.."),
    *("x" * 256, "x" * 255, "x" * 255 + "y", "\U0001f600" * 256, "\U0001f600"),
    *("\u2764", "\u2764\ufe0f", "\U0001f44d", "\U0001f44d\U0001f3fd"),
    *(normalize("NFC", E_ACUTE), normalize("NFD", E_ACUTE), "%C3%A9", "%E9", "e"),
    *("'; DROP TABLE events; --", "u' OR '1'='1", "u'", "u''", '"', "u;", "--", "u\u2019"),
    *("%00", "%00u", "u%00", "\\0", "\\u0000", "u\\u0000", "&#0;"),
    *(
        " ",
        "  ",
        " u",
        "u ",
        " u ",
        "u\u00a0",
        "u\u200b",
        "\ufeffu",
        "+",
        "u+",
        "+u",
        "%20",
        "u%20",
    ),
    *("ada", "Ada", "ADA", "\u0430da", "\u00df", "ss", "SS", "\u0131", "\u0130", "i", "I"),
    *("null", "NULL", "None", "undefined", "true", "True", "NaN", "[]", "{}", "all", "broadcast"),
    *("7", "07", "+7", "7.0", "7 ", "-7", "0", "-0", "00", "7e0", "0x7", "\u0667", "\uff17"),
    *("9007199254740993", "9007199254740992", "1e3", "1000"),
    *("?token=u", "u?x", "u#x", "#", "u&userId=v", "u=v", "u\u2028", "u\u202e", "earliest"),
]
INTEGERS = [7, -7, 0, 9007199254740993, 9007199254740992, 1000]
"""Claims that are numbers: each is the user of its decimal digits, and of nothing like it."""

OWN, LIVE, LAST = "OWN", "LIVE", "LAST"


def test_no_user_stands_in_the_list_twice() -> None:
    assert len(set(USERS)) == len(USERS)
    assert all(str(number) in USERS for number in INTEGERS)


def path_of(user: str) -> str:
    """Return where a user's events are, every byte of the id encoded."""
    return "/internal/users/" + "".join(f"%{byte:02X}" for byte in user.encode()) + "/events"


async def retained(at: Harness, user: str) -> list[Any]:
    """Return the payloads of what is retained of a user's stream."""
    answer = await at.get(path_of(user))
    assert answer.code == 200, (user, answer.body)
    return [event["payload"] for event in json.loads(answer.body)["events"]]


async def payloads(device: Device) -> list[tuple[str, Any]]:
    """Return what a device gets up to the last event, with its type; the server's own left out."""
    await device.until(LAST)
    return [
        (each["type"], each["payload"])
        for each in device.seen[:-1]
        if not each["type"].startswith("rt.")
    ]


@asynccontextmanager
async def everybody(at: Harness, **resume: str) -> AsyncIterator[list[tuple[str, Device]]]:
    """Connect each user by v1 and by v2, and those whose claim is a number by that as well."""
    claims = [*((user, user) for user in USERS), *((str(each), each) for each in INTEGERS)]
    async with AsyncExitStack() as stack:
        devices = []
        for user, claim in claims:
            for v2 in (True, False):
                device = await at.connect(claim, v2=v2, **resume)
                devices.append((user, await stack.enter_async_context(device)))
        yield devices


@pytest.mark.gen_test
async def test_users_with_hostile_ids_stay_apart_live_in_replay_and_in_paths(
    tmp_path: Path,
) -> None:
    no_limits = {
        "delivery.devices_per_user": "0",
        "delivery.connects_per_user_per_minute": "0",
    }
    async with harness(tmp_path, no_limits) as at:
        # Live, one by one and in a batch; each event says whose it is.
        async with everybody(at) as devices:
            for user in USERS:
                await at.emit({"userId": user, "type": OWN, "payload": [user, 1]})
            await at.emit(
                [{"userId": user, "type": OWN, "payload": [user, 2]} for user in reversed(USERS)]
            )
            await at.emit(
                [
                    {"userId": user, "type": LIVE, "payload": user, "durable": False}
                    for user in USERS
                ]
            )
            await at.emit({"type": LAST}, "broadcast")
            for user, device in devices:
                own = [(OWN, [user, 1]), (OWN, [user, 2]), (LIVE, user)]
                assert await payloads(device) == own, user

        # In replay: by cursor from the earliest on, and by timestamp.
        everything = {"lastEventId": "earliest", "lastEventTs": "2000-01-01T00:00:00Z"}
        async with everybody(at, **everything) as devices:
            await at.emit({"type": LAST}, "broadcast")
            for user, device in devices:
                assert await payloads(device) == [(OWN, [user, 1]), (OWN, [user, 2])], user

        # In paths: who is read, and who is erased.
        for user in USERS:
            assert await retained(at, user) == [[user, 1], [user, 2]]
        for user in USERS:
            # Had it taken another's as well there were more, or fewer when it is that one's turn.
            answer = await at.delete(path_of(user))
            assert json.loads(answer.body) == {"erased": 2}, user
            assert await retained(at, user) == []
        async with everybody(at, **everything) as devices:
            await at.emit({"type": LAST}, "broadcast")
            for user, device in devices:
                assert await payloads(device) == [], user


@pytest.mark.gen_test
async def test_keys_of_users_with_hostile_ids_stay_apart(tmp_path: Path) -> None:
    async with harness(tmp_path) as at:
        emission = {"type": OWN, "payload": 1, "key": "k"}
        answers = await at.emit([{**emission, "userId": user} for user in USERS])
        assert not any(each["duplicate"] for each in answers["results"])
        again = await at.emit({**emission, "userIds": USERS})
        assert all(each["duplicate"] for each in again["results"])
        ids = [each["id"] for each in answers["results"]]
        assert [each["id"] for each in again["results"]] == ids
        assert len(set(ids)) == len(USERS)


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "claim", [None, True, False, 7.0, [], {}, ["u"], {"u": 1}, "", "u\0", "\n"]
)
async def test_what_is_no_user_id_is_nobody(tmp_path: Path, claim: object) -> None:
    async with harness(tmp_path) as at:
        async with await at.connect(claim) as device:
            assert await device.closed() == (1008, "Authentication failed")
            assert device.seen == []
