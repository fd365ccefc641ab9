"""The report stands alone, says what the evaluations say, and escapes what it is told."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from aegis_sim import report
from aegis_sim.charts import HEIGHT, WIDTH, line_chart, running_mean
from aegis_sim.files import write_atomically
from aegis_sim.film import encode_webp
from aegis_sim.quiz import Asked
from aegis_sim.report import text_table, write_report
from aegis_sim.results import Episode, Evaluation, Rollout
from tests.sim.policies import INFO

VOID = {"meta", "img"}


class Page(HTMLParser):
    """What a browser would find: every address the page refers to, its text, and whether its tags are balanced."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(path.read_text())
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        assert tag != "script"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def evaluation(wins: int, episodes: int = 4, brightness: int = 100) -> Evaluation:
    frames = [np.full((48, 72, 3), brightness + 20 * step, np.uint8) for step in range(5)]
    film = encode_webp(frames, 10)
    asked = (Asked("where is the <red> cube", "where", "back left", "back left"),)
    asked += (Asked("how many objects are there", "count", "2", "3", step=16),)
    return Evaluation(
        task="pick",
        seed=0,
        policy=INFO,
        episodes=tuple(
            Episode(
                seed=index,
                asked=asked,
                rollout=Rollout(
                    instruction="pick up the red cube <now>",
                    success=index < wins,
                    right_object=True,
                    lifted=0 if index < wins else None,
                    steps=20,
                    failure=None if index < wins else "nothing lifted",
                    video=film,
                ),
            )
            for index in range(episodes)
        ),
        settings={},
    )


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    found = {"before": tmp_path / "before.json", "after": tmp_path / "after.json"}
    evaluation(1, brightness=40).save(found["before"])
    evaluation(3, brightness=120).save(found["after"])
    return found


def test_the_page_needs_nothing_else_and_shows_both_sides(files, tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    lines = [{"step": step, "loss": 1 / (step + 1)} for step in range(50)] + [
        {"step": 50, "vqa": {"drawn": {"accuracy": 0.875, "cross_entropy": 0.25}}}
    ]
    metrics.write_text("\n".join(map(json.dumps, lines)) + "\n")
    write_report(tmp_path / "out" / "report.html", "A <title>", files, metrics=metrics, commands=["aegis eval <x>"])
    page = Page(tmp_path / "out" / "report.html")
    assert len(page.addresses) == 8 and all(address.startswith("data:image/webp;base64,") for address in page.addresses)
    assert not re.search(r"url\(|@import|https?://", (tmp_path / "out" / "report.html").read_text())
    for text in ("A <title>", "25%", "75%", "n = 4", "pick up the red cube <now>", "(truth: 2)", "drawn 0.875"):
        assert text in page.text
    assert page.text.count("✓") == page.text.count("✗") == 8
    assert page.text.count("nothing lifted") == 3 + 1
    film = Image.open(io.BytesIO(base64.b64decode(page.addresses[0].partition(",")[2])))
    assert film.is_animated and film.n_frames == 5


def test_films_that_would_make_it_too_large_are_left_out_in_pairs(files, tmp_path, monkeypatch):
    size = len(evaluation(1, brightness=40).episodes[0].rollout.video)
    monkeypatch.setattr(report, "MAX_FILM_BYTES", 2 * size + size // 2)
    write_report(tmp_path / "report.html", "Title", files)
    page = Page(tmp_path / "report.html")
    assert len(page.addresses) == 2 and len(set(page.addresses)) == 2
    assert "episode 1" in page.text and "episode 2" not in page.text


def test_a_task_of_questions_alone_has_no_success_and_no_wall(tmp_path):
    episodes = tuple(Episode(seed, (Asked("what", "colour", "red", "red"),)) for seed in range(3))
    Evaluation("drawn", 0, INFO, episodes, {}).save(tmp_path / "drawn.json")
    write_report(tmp_path / "report.html", "Title", {"now": tmp_path / "drawn.json"})
    page = Page(tmp_path / "report.html")
    assert "100%" in page.text and "Success" not in page.text and "Episodes" not in page.text


def test_the_table_holds_every_rate_beside_its_interval(files):
    loaded = {label: json.loads(file.read_text()) for label, file in files.items()}
    table = text_table(loaded, families=True).splitlines()
    assert table[0].split() == ["before", "after"]
    assert "0.25 [0.05, 0.70], n = 4" in table[1] and "0.75 [0.30, 0.95], n = 4" in table[1]
    assert [line.split()[0] for line in table[1:]] == ["success", "right", "VQA", "count", "where", "time"]
    assert "2 [2, 2], n = 1" in table[6] and "2 [2, 2], n = 3" in table[6]
    loaded["after"]["latency_ms"]["act"] = {"n": 9, "p50": 12.345, "p95": 20.0}
    assert "-" in text_table(loaded).splitlines()[-1] and "12.3, p95 20" in text_table(loaded).splitlines()[-1]


finite = st.floats(-1e6, 1e6)


@given(st.lists(finite, min_size=1, max_size=40), st.booleans())
def test_a_curve_stays_inside_its_chart(values, markers):
    chart = line_chart("loss", {"one": list(enumerate(values)), "two": [(0, 1.0)]}, markers=markers)
    points = [pair.split(",") for line in re.findall(r'points="([^"]+)"', chart) for pair in line.split()]
    assert len(points) == (len(values) + 1) * (1 if markers else 2)
    for x, y in points:
        assert 0 <= float(x) <= WIDTH and 0 <= float(y) <= HEIGHT


@given(st.lists(finite, min_size=1, max_size=30), st.integers(0, 9))
def test_the_running_mean_stays_between_the_extremes(values, reach):
    smooth = running_mean(values, reach)
    assert len(smooth) == len(values)
    assert min(values) - 1e-6 <= min(smooth) and max(smooth) <= max(values) + 1e-6
    assert running_mean([2.0] * 5, reach) == [2.0] * 5
    assert running_mean([0.0, 3.0, 6.0], 1) == [1.5, 3.0, 4.5]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
