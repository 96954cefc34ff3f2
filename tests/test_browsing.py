"""The browser that other tests use is a real one, and says what goes wrong in a page."""

from pathlib import Path

import pytest

from browsing import PHONE, browser
from support import eventually


@pytest.mark.needs("chromium")
@pytest.mark.gen_test
async def test_a_page_is_run_and_its_complaints_are_heard(tmp_path: Path) -> None:
    page_file = tmp_path / "page.html"
    page_file.write_text("<script>document.title = innerWidth; nothing.at.all;</script>")
    async with browser(viewport=PHONE) as chromium:
        page = await chromium.page(page_file.as_uri())
        assert await page.title() == "390"
        await eventually(lambda: chromium.complaints)
        assert chromium.complaints == ["nothing is not defined"]
