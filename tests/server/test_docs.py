"""The documentation in a real browser: its own, and for those who know the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.linear_policy import LINEAR, serving

expect = pytest.importorskip("playwright.sync_api").expect
KEY = "a key of sixteen characters or more"


def test_the_documentation_asks_for_the_key_and_nobody_else_for_anything(chromium: Any, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(KEY)
    with serving(tmp_path / "log", *LINEAR, "--keys", str(tmp_path / "keys")) as server:
        server.wait()
        page, asked, wrong = chromium.new_page(), list[str](), list[str]()
        page.set_default_timeout(15000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: "Content Security" in message.text and wrong.append(message.text))
        page.goto(f"{server.url}/docs")
        for key in ("not the key", KEY):
            page.get_by_label("This server takes a key").fill(key)
            page.keyboard.press("Enter")
            if key != KEY:
                expect(page.get_by_role("alert")).to_have_text("The server does not know this key.")
        page.get_by_text("/v1/act", exact=True).click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        expect(page.locator(".live-responses-table tbody .response-col_status").first).to_contain_text("200")
        page.close()
    assert not wrong and all(url.startswith((server.url, "data:", "blob:")) for url in asked) and len(asked) > 5
