"""The cases a predecessor of this server was tested by, over real sockets."""

from pathlib import Path
from typing import Any

import pytest

from engines import over_both
from support import harness

pytestmark = over_both

JOB = ["JOB_STARTED", "JOB_PROGRESS", "JOB_COMPLETED", "JOB_FAILED"]


def types_of(messages: list[dict[str, Any]]) -> list[str]:
    return [message["type"] for message in messages]


@pytest.mark.gen_test
async def test_a_device_connects_by_the_token_in_its_query(tmp_path: Path) -> None:
    async with harness(tmp_path) as server, await server.connect("user-1"):
        assert (await server.stats())["connections"]["total"] == 1


@pytest.mark.gen_test
async def test_an_event_arrives_in_exactly_its_shape_and_with_its_own_timestamp(
    tmp_path: Path,
) -> None:
    event = {
        "type": "JOB_STARTED",
        "payload": {"jobId": "7"},
        "timestamp": "2026-01-02T03:04:05.678901234+05:30",
    }
    async with harness(tmp_path) as server, await server.connect("user-1", v2=False) as device:
        await server.emit({"userId": "user-1", **event})
        assert await device.next() == event


@pytest.mark.gen_test
async def test_every_step_of_a_job_is_delivered_in_order(tmp_path: Path) -> None:
    async with harness(tmp_path) as server, await server.connect("user-1", v2=False) as device:
        for step in JOB:
            await server.emit({"userId": "user-1", "type": step})
        assert types_of(await device.take(len(JOB))) == JOB


@pytest.mark.gen_test
async def test_emitting_to_somebody_who_is_not_there_does_no_harm(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        answer = await server.emit({"userId": "nobody", "type": "JOB_STARTED"})
        assert answer["delivered"] == 0
        assert answer["durable"] is True
        async with await server.connect("user-1", v2=False) as device:
            await server.emit({"userId": "user-1", "type": "JOB_STARTED"})
            assert (await device.next())["type"] == "JOB_STARTED"


@pytest.mark.gen_test
async def test_a_broadcast_reaches_every_connected_user(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        devices = [await server.connect(f"user-{number}", v2=False) for number in range(5)]
        answer = await server.emit({"type": "NEWS", "payload": "hello"}, "broadcast")
        assert answer["delivered"] == 5
        for device in devices:
            assert (await device.next())["payload"] == "hello"
            await device.close()


@pytest.mark.gen_test
async def test_a_reconnect_by_last_event_ts_brings_only_later_durable_events_oldest_first(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path) as server:
        for second in range(5):
            await server.emit(
                {
                    "userId": "user-1",
                    "type": f"E{second}",
                    "timestamp": f"2026-01-01T00:00:0{second}Z",
                }
            )
        async with await server.connect(
            "user-1", v2=False, lastEventTs="2026-01-01T00:00:02Z"
        ) as device:
            await server.emit({"userId": "user-1", "type": "SENTINEL"})
            assert types_of(await device.take(3)) == ["E3", "E4", "SENTINEL"]


@pytest.mark.gen_test
async def test_progress_is_never_replayed_but_completion_is(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        for step in JOB[:3]:
            await server.emit({"userId": "user-1", "type": step})
        async with await server.connect(
            "user-1", v2=False, lastEventTs="2020-01-01T00:00:00Z"
        ) as device:
            await server.emit({"userId": "user-1", "type": "SENTINEL"})
            assert types_of(await device.take(3)) == ["JOB_STARTED", "JOB_COMPLETED", "SENTINEL"]


@pytest.mark.gen_test
async def test_a_user_gets_nothing_of_another_live_or_in_replay(tmp_path: Path) -> None:
    async with harness(tmp_path) as server, await server.connect("user-2", v2=False) as live:
        await server.emit({"userId": "user-1", "type": "SECRET"})
        async with await server.connect("user-2", lastEventId="earliest") as resumed:
            await server.emit({"userId": "user-2", "type": "SENTINEL"})
            assert (await live.next())["type"] == "SENTINEL"
            await resumed.until("SENTINEL")
            assert "SECRET" not in types_of(resumed.seen)


@pytest.mark.gen_test
async def test_both_devices_of_a_user_get_an_event(tmp_path: Path) -> None:
    async with (
        harness(tmp_path) as server,
        await server.connect("user-1", v2=False) as first,
        await server.connect("user-1", v2=False) as second,
    ):
        answer = await server.emit({"userId": "user-1", "type": "JOB_STARTED"})
        assert answer["delivered"] == 2
        assert (await first.next())["type"] == "JOB_STARTED"
        assert (await second.next())["type"] == "JOB_STARTED"


@pytest.mark.gen_test
async def test_the_server_ends_cleanly_and_leaves_no_connection_behind(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        device = await server.connect("user-1")
        await device.until("rt.live")
    assert (await device.until("rt.reconnect"))["payload"]["afterMs"] <= 5000
    assert await device.closed() == (1001, "Server going away")
    await device.close()
