"""An event's way from the request that brought it to a replay, by the lines about it."""

import json
from pathlib import Path

import pytest

from archibald_rt.tracing import Trace
from logged import Lines, logged
from support import harness


def way(lines: Lines, text: str) -> list[str]:
    """Return which lines a text stands in, as grep would find them."""
    return [json.loads(line)["event"] for line in lines.text.splitlines() if text in line]


@pytest.mark.gen_test
async def test_one_event_is_followed_from_its_request_to_a_replay(tmp_path: Path) -> None:
    async with harness(tmp_path) as at:
        with logged() as lines:
            async with await at.connect("ada") as live:
                welcome = await live.until("rt.welcome")
                body = b'{"userId":"ada","type":"JOB_STARTED","payload":{"note":"not-to-be-seen"}}'
                answer = json.loads(
                    (await at.post("/internal/emit", body, X_Request_Id="r-7")).body
                )
                await live.until("JOB_STARTED")
            async with await at.connect("ada", lastEventId="earliest") as later:
                replayed = (await later.until("rt.welcome"))["payload"]["connection"]
                await later.until("rt.live")
            event = answer["id"]
            assert way(lines, '"r-7"') == [
                *("event accepted", "event committed", "event dispatched", "request"),
            ]
            assert way(lines, f'"{event}"') == [
                *("event committed", "event dispatched", "event replayed"),
            ]
            (accepted,) = lines.entries(event="event accepted")
            assert (accepted["user"], accepted["type"]) == ("ada", "JOB_STARTED")
            (committed,) = lines.entries(event="event committed")
            assert (committed["request_id"], committed["id"]) == ("r-7", event)
            (group,) = lines.entries(event="group committed")
            assert group["requests"] == 1
            (dispatched,) = lines.entries(event="event dispatched")
            assert dispatched["delivered"] == 1
            assert dispatched["connections"] == [welcome["payload"]["connection"]]
            (replay,) = lines.entries(event="event replayed")
            assert (replay["connection"], replay["user"]) == (replayed, "ada")
            connected = lines.entries(event="device connected")
            assert [each["connection"] for each in connected] == [
                *(welcome["payload"]["connection"], replayed),
            ]
            # And so the handshake is found, with the address.
            assert "request" in way(lines, connected[1]["request_id"])
            assert "not-to-be-seen" not in lines.text


@pytest.mark.gen_test
async def test_of_a_batch_each_event_has_its_place_and_a_duplicate_is_called_one(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path) as at:
        keyed = {"userId": "ada", "type": "A", "key": "k"}
        first = (await at.emit(keyed))["id"]
        with logged() as lines:
            progress = {"userId": "ada", "type": "JOB_PROGRESS"}
            answer = await at.emit([progress, keyed, {"userId": "bob", "type": "B"}])
            ids = [each["id"] for each in answer["results"]]
            (duplicate,) = lines.entries(event="event is a duplicate")
            assert (duplicate["place"], duplicate["id"]) == (1, first)
            (committed,) = lines.entries(event="event committed")
            assert (committed["place"], committed["id"]) == (2, ids[2])
            dispatched = lines.entries(event="event dispatched")
            assert [(each["place"], each["id"]) for each in dispatched] == [(0, None), (2, ids[2])]
            nested = json.loads("[" * 499 + "]" * 499)
            await at.emit({"type": "NEWS", "payload": nested}, "broadcast")
            (news,) = lines.entries(event="event accepted", type="NEWS")
            assert news["user"] is None


@pytest.mark.gen_test
async def test_of_many_connections_a_line_names_some(tmp_path: Path) -> None:
    async with harness(tmp_path, {"delivery.devices_per_user": "0"}) as at:
        devices = [await at.connect("ada") for _ in range(21)]
        for device in devices:
            await device.until("rt.live")
        with logged() as lines:
            assert (await at.emit({"userId": "ada", "type": "A"}))["delivered"] == 21
            (dispatched,) = lines.entries(event="event dispatched")
        assert dispatched["delivered"] == 21
        assert len(set(dispatched["connections"])) == 20
        for device in devices:
            await device.close()


@pytest.mark.gen_test
async def test_above_debug_no_line_is_made_of_an_event(tmp_path: Path) -> None:
    async with harness(tmp_path) as at:
        with logged():
            assert Trace("epoch").on
        with logged("info") as lines:
            assert not Trace("epoch").on
            await at.emit({"userId": "ada", "type": "A"})
            async with await at.connect("ada", lastEventId="earliest") as device:
                await device.until("rt.live")
            assert lines.entries(logger="archibald_rt.trace") == []
            assert lines.entries(event="device connected") == []
