"""The trial in short: each fault once. `scripts/cluster` goes at it for longer."""

from pathlib import Path

import pytest

from cluster.trial import put_through_all, trial


@pytest.mark.long
@pytest.mark.gen_test(timeout=600)
async def test_what_a_cluster_acknowledged_comes_to_every_device_once_and_in_order_whatever_fails(
    tmp_path: Path,
) -> None:
    async with trial(tmp_path, users=6, devices_each=6, stay=2, pause=0.05) as under:
        await put_through_all(under, thorough=False)
        figures = await under.finish()
    assert not figures.wrong, figures
    # Nobody whose server lived has noticed anything.
    assert figures.cut_off_live == 0
    # It has been one: what is not there can't be lost.
    assert figures.moves > 0
    assert figures.statuses.keys() & {"503", "504"}
    assert figures.statuses["0"] > 0
