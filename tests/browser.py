"""A real browser for tests of pages: the system's Chromium, headless."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here; Debian's package is called chromium"
)
SOFTWARE_WEBGL = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
LAPTOP, PHONE = (1280, 800), (390, 780)


@contextmanager
def opened(address: str, *, size: tuple[int, int] = LAPTOP, dark: bool = False) -> Iterator:
    """Opens a page, which must load without a network and without errors."""
    from playwright.sync_api import sync_playwright

    errors: list[str] = []
    asked: list[str] = []
    local = address.split("/")[2] if address.startswith("http:") else ""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SOFTWARE_WEBGL)
        page = browser.new_page(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if dark else "light",
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        try:
            yield page
        finally:
            browser.close()
    assert not errors
    outside = [
        url for url in asked
        if url.startswith("http") and not (local and url.startswith(f"http://{local}/"))
    ]  # fmt: skip
    assert not outside, "a page must need nothing from a network"


def fits_its_width(page) -> bool:
    """True if the page needs no horizontal scrolling."""
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
