"""The demonstration as a program of its own: what it shows, and what it leaves behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parent.parent / "scripts" / "demo.py"

# By event: its kind, and what the table says of the laptop, the phone, the other user's
# laptop and the tablet that connects after the crash.
EXPECTED = {
    "ada: JOB_STARTED": ["durable", "live", "live", "", "replayed"],
    "ada: JOB_PROGRESS 25": ["transient", "live", "live", "", "–"],
    "ada: JOB_PROGRESS 50": ["transient", "live", "–", "", "–"],
    "ada: FILE_READY a.pdf": ["durable", "live", "replayed", "", "replayed"],
    "ben: JOB_STARTED": ["durable", "", "", "live", ""],
    "ada: JOB_PROGRESS 75": ["transient", "live", "–", "", "–"],
    "ada: JOB_PROGRESS 100": ["transient", "live", "live", "", "–"],
    "ada: JOB_COMPLETED": ["durable", "live", "live", "", "replayed"],
    "ben: JOB_COMPLETED": ["durable", "", "", "live", ""],
}


def test_the_demo_shows_what_each_device_received_and_leaves_nothing_behind(tmp_path: Path) -> None:
    # What the operator's own server is configured by must not reach the demo's.
    environment = os.environ | {
        "TMPDIR": str(tmp_path),
        "COLUMNS": "120",
        "ARCHIBALD_RT_SERVER_PORT": "no port",
    }
    with subprocess.Popen(
        [sys.executable, str(DEMO)],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as demo:
        try:
            output, errors = demo.communicate(timeout=60)
        finally:
            demo.kill()
    assert (demo.returncode, errors) == (0, "")

    rows = [line.strip("│").split("│") for line in output.splitlines() if line.startswith("│")]
    assert {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows} == EXPECTED
    verdicts = [line for line in output.splitlines() if line.startswith(("kept", "BROKEN"))]
    assert len(verdicts) == 6
    assert all(line.startswith("kept ") for line in verdicts)

    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(demo.pid, 0)
