"""The page in a real browser: hostile passages stay text, nothing is fetched from elsewhere, no width overflows.

Set HYBRIDMEM_SCREENSHOTS to a folder to keep what was seen.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_planted import IMAGE, QUESTION

from hybridmem_plugins.page.command import free_port

pytest.importorskip("nicegui", reason="the page needs pip install 'hybridmem-plugins[serve]'")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright, which drives the browser, is not installed")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome is on the PATH")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    port = free_port("127.0.0.1", 0)
    command = [sys.executable, str(Path(__file__).with_name("page_planted.py")), str(port)]
    # Where it sees these, the server takes itself for a simulated one.
    outside = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "NICEGUI_"))}
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=outside)
    url = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, "the server stopped"
                time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_what_a_person_sees(browser: Any, address: str, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    requested: list[str] = []
    trouble: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("dialog", lambda dialog: trouble.append(dialog.message))
    page.on("console", lambda told: trouble.append(told.text) if told.type == "error" else None)
    page.goto(address)
    page.get_by_label("Question").fill(QUESTION)
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_text("The answer stands in none of its sources.").wait_for(timeout=30_000)
    page.locator(".q-slider").scroll_into_view_if_needed()
    slider = page.locator(".q-slider").bounding_box()
    page.mouse.click(slider["x"] + 0.97 * slider["width"], slider["y"] + slider["height"] / 2)
    page.get_by_text("The context now").click(timeout=30_000)
    page.locator(".damage mark").first.wait_for(timeout=30_000)
    page.wait_for_timeout(500)
    if folder := os.environ.get("HYBRIDMEM_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"page-{width}-{scheme}.png", full_page=True)

    assert page.evaluate("window.planted") is None
    assert page.locator("main script, main img, main [onload], main [onerror]").count() == 0
    assert page.get_by_text(IMAGE[:20]).first.is_visible()
    assert page.locator(".walk svg path.hop").count() > 0
    assert page.evaluate("getComputedStyle(document.querySelector('path.hop')).fill") == "none"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 19, 21)"
    assert dark is (scheme == "dark")
    assert all(url.startswith((address, address.replace("http", "ws"), "data:")) for url in requested), requested
    assert not trouble
    page.close()
