"""The console in a real browser, Chromium driven by Playwright: what people see, type, press and hear."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from websockets.sync.client import connect

from aegis_policy.inference.wire import pack
from tests.linear_policy import LINEAR, Server, serving
from tests.server.robot_client import DESCRIPTION, REPORT, SmallRobot, address

expect = pytest.importorskip("playwright.sync_api").expect

ROOT = Path(__file__).resolve().parents[2]
KEY = "a key of sixteen characters or more"
PHONE = {"width": 390, "height": 844}


@pytest.fixture
def page(chromium: Any, server: Server) -> Iterator[Any]:
    """The console of the server; at the end no error was in its log, and it asked nobody else for anything."""
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(15000)
    wrong: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: message.type in ("error", "warning") and wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url.replace("ws", "http", 1)))
    page.goto(f"{server.url}/console")
    yield page
    if page.locator("#stop").get_attribute("aria-pressed") == "true":
        release(page)
    page.close()
    assert wrong == []
    assert [url for url in asked if not url.startswith((server.url, "data:", "blob:"))] == []
    assert len(asked) > 8


@pytest.fixture
def robot(server: Server, page: Any) -> Iterator[SmallRobot]:
    with SmallRobot(server.url) as robot:
        expect(page.locator("#status")).to_contain_text("Ready · a small robot")
        yield robot


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.new("RGB", (640, 400), (200, 0, 0)).save(tmp_path / "scene.jpg", quality=100)
    return tmp_path / "scene.jpg"


def release(page: Any) -> None:
    page.get_by_role("button", name="Release the stop…").click()
    page.get_by_role("button", name="Yes, release").click()
    expect(page.locator("#stop")).to_have_attribute("aria-pressed", "false")


def wait(true: Callable[[], Any], seconds: float = 30.0) -> None:
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_without_a_robot_it_says_how_to_attach_one_and_answers_about_a_picture(page: Any, picture: Path) -> None:
    expect(page.get_by_text("No robot is attached.")).to_be_visible()
    expect(page.get_by_text("aegis serve --sim pick")).to_be_visible()
    expect(page.get_by_role("button", name="Start")).to_be_disabled()
    page.get_by_label("Picture to ask about").set_input_files(picture)
    expect(page.get_by_role("img", name="The chosen picture, scene.jpg")).to_be_visible()
    page.get_by_role("textbox", name="Question").fill("what is the mean colour?")
    page.get_by_role("button", name="Ask", exact=True).click()
    entry = page.get_by_role("log").locator("article")
    expect(entry).to_contain_text(re.compile(r"front: 6[67]\.\d\d"))
    expect(entry.get_by_role("heading")).to_have_text("what is the mean colour?")
    expect(entry.get_by_role("img", name="The picture asked about")).to_be_visible()


def test_an_answer_is_shown_as_it_streams(page: Any, picture: Path) -> None:
    page.get_by_label("Picture to ask about").set_input_files(picture)
    page.get_by_role("textbox", name="Question").fill("count")
    page.keyboard.press("Enter")
    answer = page.locator("#log article p")
    expect(answer).to_contain_text("3 4 5")
    early = answer.inner_text()
    expect(page.get_by_role("log")).to_have_attribute("aria-busy", "true")
    expect(answer).to_contain_text("60 61 62")
    assert "60 61" not in early


def test_an_answer_whose_time_is_over_says_so(page: Any, picture: Path) -> None:
    def hurry(route: Any) -> None:
        route.continue_(headers={**route.request.headers, "x-deadline-ms": "400"})

    page.route("**/v1/chat/completions", hurry)
    page.get_by_label("Picture to ask about").set_input_files(picture)
    page.get_by_role("textbox", name="Question").fill("count")
    page.keyboard.press("Enter")
    expect(page.locator("#log article p.refused")).to_contain_text(re.compile(r"^0 1 2 .*not done within 0\.4 s"))


def test_who_asks_before_the_page_has_its_link_is_answered_too(page: Any, picture: Path) -> None:
    held: list[Any] = []
    page.route("**/v1/info", lambda route: route.continue_() if held else held.append(route))
    page.reload()
    page.get_by_label("Picture to ask about").set_input_files(picture)
    page.get_by_role("textbox", name="Question").fill("what is the mean colour?")
    page.keyboard.press("Enter")
    expect(page.locator("#log article p")).to_contain_text("front: ")
    expect(page.locator("#status")).to_have_text("Connecting…")
    held[0].continue_()
    expect(page.locator("#status")).to_have_text("No robot")


def test_what_is_refused_is_said_in_the_log(page: Any, tmp_path: Path) -> None:
    page.get_by_role("textbox", name="Question").fill("what is it?")
    page.keyboard.press("Enter")
    expect(page.get_by_role("log")).to_contain_text("Choose a picture first.")


def test_it_asks_about_the_live_picture_that_is_shown(page: Any, robot: SmallRobot) -> None:
    page.get_by_label("wrist camera").check()
    page.get_by_role("textbox", name="Question").fill("what is the mean colour?")
    page.keyboard.press("Enter")
    expect(page.get_by_role("log")).to_contain_text("wrist: 73.33")  # the mean of (40, 90, 90)


def test_a_camera_from_which_nothing_comes_is_not_asked_about(page: Any, robot: SmallRobot) -> None:
    page.get_by_label("wrist camera").check()
    robot.dark.add("wrist")
    captions = page.locator("#cameras figcaption")
    expect(captions).to_have_text(["front · policy", "wrist · policy · no picture comes"])
    page.get_by_role("textbox", name="Question").fill("what is the mean colour?")
    page.keyboard.press("Enter")
    expect(page.get_by_role("log")).to_contain_text("No picture comes from the camera wrist.")
    robot.dark.clear()
    expect(captions).to_have_text(["front · policy", "wrist · policy"])


def test_an_instruction_starts_the_robot_and_the_plots_follow_its_chunk(page: Any, robot: SmallRobot) -> None:
    page.get_by_role("textbox", name="Instruction").fill("pick up the green ball")
    page.keyboard.press("Enter")
    expect(page.locator("#doing")).to_have_text("Carrying out: pick up the green ball")
    assert robot.instruction == "pick up the green ball"
    expect(page.locator("#status")).to_contain_text("Running")
    plots = page.locator("#plots figure")
    expect(plots).to_have_count(3)
    expect(plots.locator("b")).to_have_text(["dx", "dy", "gripper"])
    seen: set[tuple[str, str]] = set()
    frames: set[str] = set()

    def changed() -> bool:
        paths = [plots.first.locator(f"path.{part}").get_attribute("d") for part in ("done", "planned")]
        seen.add((paths[0], paths[1]))
        frames.add(page.locator("#cameras img").first.get_attribute("src"))
        return len(seen) >= 4 and len(frames) >= 4

    wait(changed)
    expect(plots.first.get_by_role("img")).to_have_attribute(
        "aria-label", re.compile(r"dx: \d of 4 carried out, .* mm")
    )
    page.get_by_role("button", name="Hold still").click()
    expect(page.locator("#status")).to_contain_text("Ready")
    assert not robot.running
    page.get_by_role("button", name="pick up the blue ball").click()
    expect(page.get_by_role("textbox", name="Instruction")).to_have_value("pick up the blue ball")
    page.get_by_role("button", name="New scene").click()
    wait(lambda: {"reset": True} in robot.told)


def test_escape_latches_the_stop_and_only_two_deliberate_presses_release_it(page: Any, robot: SmallRobot) -> None:
    page.get_by_role("textbox", name="Instruction").fill("pick up the red cube")
    page.keyboard.press("Enter")
    wait(lambda: robot.running)
    page.keyboard.press("Escape")  # the field still has the focus
    wait(lambda: robot.stopped)
    stop = page.locator("#stop")
    expect(stop).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("alert").filter(has_text="Nothing moves until you release it")).to_be_visible()
    for name in ("Start", "Hold still", "New scene"):
        expect(page.get_by_role("button", name=name)).to_be_disabled()
    page.get_by_role("button", name="Release the stop…").click()
    page.keyboard.press("Enter")  # the focus is on the safe choice
    expect(stop).to_have_attribute("aria-pressed", "true")
    assert robot.stopped
    release(page)
    wait(lambda: robot.stopped is None)
    assert not robot.running
    expect(page.get_by_role("button", name="Start")).to_be_enabled()


def test_the_space_bar_stops_unless_something_is_typed_or_pressed_with_it(page: Any, robot: SmallRobot) -> None:
    page.get_by_role("textbox", name="Instruction").press_sequentially("pick up")
    page.get_by_label("wrist camera").focus()
    page.keyboard.press(" ")
    time.sleep(0.5)
    assert robot.stopped is None
    page.get_by_role("heading", name="What it sees").click()
    page.keyboard.press(" ")
    wait(lambda: robot.stopped)


def test_a_robot_that_hangs_is_not_shown_as_if_it_ran(page: Any, server: Server) -> None:
    with connect(address(server.url, "/v1/robot"), proxy=None) as hung:
        hung.send(pack(DESCRIPTION))
        running = pack({**REPORT, "running": True, "instruction": "go"})
        wait(lambda: hung.send(running) or "Running" in page.locator("#status").inner_text())
        expect(page.locator("#status")).to_contain_text("Nothing heard from a small robot")


def test_every_control_is_reached_by_tab_and_shows_that_it_is(page: Any, robot: SmallRobot) -> None:
    reached = []
    for _ in range(20):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            """() => {
              const element = document.activeElement;
              const shown = element.matches('.sources input') ? element.parentElement : element;
              return [element.id || element.value || element.textContent, getComputedStyle(shown).outlineStyle];
            }"""
        )
        reached.append(name)
        assert outline == "solid", name
        if name == "what is the gripper holding?":
            break
    assert reached[0] == "stop"
    expected = ["instruction", "start", "reset", "log", "front", "question", "Ask"]
    assert [name for name in reached if name in expected] == expected


def test_the_keyboard_alone_does_the_whole_job(page: Any, robot: SmallRobot) -> None:
    def tab_to(identity: str) -> None:
        for _ in range(30):
            if page.evaluate("document.activeElement.id") == identity:
                return
            page.keyboard.press("Tab")
        raise AssertionError(identity)

    tab_to("instruction")
    page.keyboard.type("pick up the red cube")
    page.keyboard.press("Enter")
    wait(lambda: robot.running)
    page.keyboard.press("Escape")
    wait(lambda: robot.stopped)
    expect(page.locator("#release-ask")).to_be_visible()
    tab_to("release-ask")
    page.keyboard.press("Enter")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    wait(lambda: robot.stopped is None)
    expect(page.locator("#stop")).to_have_attribute("aria-pressed", "false")  # the page has heard of it too


SPOKEN = {"button", "textbox", "radio", "image", "meter", "log", "region", "heading", "group"}


def test_a_screen_reader_finds_a_name_for_everything(page: Any, robot: SmallRobot) -> None:
    page.get_by_role("textbox", name="Instruction").fill("pick up the red cube")
    page.keyboard.press("Enter")
    wait(lambda: robot.running)
    page.keyboard.press("Escape")
    expect(page.locator("#release-ask")).to_be_visible()
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    spoken = [
        (node["role"]["value"], node.get("name", {}).get("value", "").strip())
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in SPOKEN
    ]
    assert [role for role, name in spoken if not name] == []
    names = {name for _, name in spoken}
    assert {"STOPPED", "Instruction", "Question", "Ask", "Live picture of the camera front"} <= names
    assert any(name.startswith("gripper: ") for name in names)
    assert {role for role, _ in spoken} >= SPOKEN - {"group"}


def luminance(colour: str) -> float:
    values = np.array([float(number) for number in re.findall(r"[\d.]+", colour)[:3]]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


GROUNDS = """selector => {
  let element = document.querySelector(selector); const ink = getComputedStyle(element).color;
  while (getComputedStyle(element).backgroundColor === 'rgba(0, 0, 0, 0)') element = element.parentElement;
  return [ink, getComputedStyle(element).backgroundColor];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_in_dark(page: Any, robot: SmallRobot, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    assert (luminance(page.evaluate(GROUNDS, "body")[1]) < 0.1) == (scheme == "dark")
    for selector in ("body", "h2", "#status span", "#stop", "#start", "#suggestions button", ".legend", "#gauges dt"):
        ink, ground = (luminance(colour) for colour in page.evaluate(GROUNDS, selector))
        assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) >= 4.5, selector


def test_a_phone_shows_one_column_with_the_stop_always_in_reach(page: Any, robot: SmallRobot) -> None:
    page.set_viewport_size(PHONE)
    page.get_by_role("textbox", name="Instruction").fill("pick up the red cube")
    page.keyboard.press("Enter")
    wait(lambda: robot.running)
    page.wait_for_selector("#plots figure")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    for place in ("document.body.scrollHeight", "0"):
        page.evaluate(f"window.scrollTo(0, {place})")
        box = page.locator("#stop").bounding_box()
        assert box["height"] >= 56
        assert box["width"] >= 300
        assert 0 <= box["y"]
        assert box["y"] + box["height"] <= PHONE["height"]
    page.locator("#stop").click()
    wait(lambda: robot.stopped)


def test_nothing_is_animated_for_those_who_do_not_want_it(page: Any, robot: SmallRobot) -> None:
    page.emulate_media(reduced_motion="reduce")
    page.get_by_role("textbox", name="Instruction").fill("go")
    page.keyboard.press("Enter")
    wait(lambda: robot.running)
    expect(page.locator("#status")).to_contain_text("Running")
    assert page.evaluate("document.getAnimations().length") == 0


@pytest.mark.parametrize("path", ["", "v1/stream", "v1/robot", "v1/console"])
def test_a_page_reaches_each_websocket_with_the_subprotocols_that_carry_its_key(page: Any, path: str) -> None:
    opened = """path => new Promise((done) => {
        const socket = new WebSocket(new URL(`/${path}`, location), ["aegis", "aegis.key.AAAA"]);
        socket.onopen = () => { socket.close(); done(socket.protocol); };
        socket.onerror = () => done("refused");
    })"""
    assert page.evaluate(opened, path) == "aegis"


def test_it_asks_for_the_key_and_says_so_when_the_server_goes(chromium: Any, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(KEY)
    with serving(tmp_path / "log", *LINEAR, "--keys", str(tmp_path / "keys")) as server:
        server.wait()
        page = chromium.new_page()
        page.set_default_timeout(15000)
        page.goto(f"{server.url}/console")
        dialog = page.get_by_role("dialog", name="This server asks for a key")
        dialog.get_by_label("Key").fill("not the key")
        page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).to_have_text("The server does not know this key.")
        dialog.get_by_label("Key").fill("a key… cut short")  # which no header could carry
        page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).to_have_text("The server does not know this key.")
        dialog.get_by_label("Key").fill(KEY)
        page.keyboard.press("Enter")
        expect(dialog).to_be_hidden()
        with SmallRobot(server.url, key=KEY) as robot:
            expect(page.locator("#status")).to_contain_text("Ready · a small robot")
            page.get_by_role("textbox", name="Question").fill("what is the mean colour?")
            page.keyboard.press("Enter")
            expect(page.get_by_role("log")).to_contain_text("front: 73.33")
            os.kill(server.process.pid, signal.SIGSTOP)  # its sockets stay open
            page.keyboard.press("Escape")
            expect(page.get_by_role("alert").filter(has_text="The server has not confirmed the stop.")).to_be_visible()
            expect(page.get_by_text("No link to the server; trying again.")).to_be_visible()
            assert robot.stopped is None
            server.process.kill()
            page.keyboard.press("Escape")
            expect(page.get_by_role("alert").filter(has_text="The stop is sent as soon as")).to_be_visible()
        page.close()
