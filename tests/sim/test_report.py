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

from aegis_sim import report_wall
from aegis_sim.charts import HEIGHT, WIDTH, bar_chart, interval_chart, line_chart, marked, noisy, running_mean, stairs
from aegis_sim.files import write_atomically
from aegis_sim.film import encode_webp
from aegis_sim.quiz import Asked
from aegis_sim.report import text_table, write_report
from aegis_sim.report_plots import success_over_time
from aegis_sim.results import Episode, Evaluation, Rollout
from aegis_sim.statistics import wilson
from tests.sim.policies import INFO

VOID = {"meta", "img"}


class Page(HTMLParser):
    """What a browser would find: every address the page refers to, its text, and whether its tags are balanced."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(path.read_text())
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        links = [given[name] for name in ("src", "href", "xlink:href") if name in given]
        self.addresses += [link for link in links if not link.startswith("#")]
        self.links += [link[1:] for link in links if link.startswith("#")]
        self.ids += [given["id"]] if "id" in given else []
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
    assert page.text.count("nothing lifted") == 3 + 1 + 2 + 1  # chips, the link and its group, the chart
    assert "jerk, m/s³" not in page.text and "a call of act" not in page.text  # nothing was measured
    assert "3 of 4" in page.text and "1 of 4" in page.text
    film = Image.open(io.BytesIO(base64.b64decode(page.addresses[0].partition(",")[2])))
    assert film.is_animated and film.n_frames == 5


def test_films_that_would_make_it_too_large_are_left_out_in_pairs(files, tmp_path, monkeypatch):
    size = len(evaluation(1, brightness=40).episodes[0].rollout.video)
    monkeypatch.setattr(report_wall, "MAX_FILM_BYTES", 2 * size + size // 2)
    write_report(tmp_path / "report.html", "Title", files)
    page = Page(tmp_path / "report.html")
    assert len(page.addresses) == 2 and len(set(page.addresses)) == 2
    assert "episode 2" in page.text and "episode 1" not in page.text  # both succeeded in 1, only "after" in 2


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
    loaded["after"]["latency_ms"]["act"] = {"n": 9, "p50": 12.345, "p95": 1454.0}
    assert "-" in text_table(loaded).splitlines()[-1] and "12.3, p95 1450" in text_table(loaded).splitlines()[-1]


finite = st.floats(-1e6, 1e6)


@given(st.lists(finite, min_size=1, max_size=40), st.sampled_from([noisy, marked, stairs]))
def test_a_curve_stays_inside_its_chart(values, draw):
    chart = line_chart("loss", {"one": list(enumerate(values)), "two": [(0, 1.0)]}, draw)
    points = [pair.split(",") for line in re.findall(r'points="([^"]+)"', chart) for pair in line.split()]
    assert len(points) == {noisy: 2 * len(values) + 2, marked: len(values) + 1, stairs: 2 * len(values)}[draw]
    for x, y in points:
        assert 0 <= float(x) <= WIDTH and 0 <= float(y) <= HEIGHT


def test_a_stair_keeps_its_height_until_the_next_one():
    assert 'points="0.0,9.0 4.0,9.0 4.0,5.0 6.0,5.0 6.0,1.0"' in stairs([(0, 9), (4, 5), (6, 1)])


def test_bars_are_as_long_as_their_counts_and_dots_stand_where_their_rates_are():
    bars = bar_chart("wrong", {"nothing lifted": [2, 4], "dropped": [0, 1]}, {"a": "2", "b": "5"}, ["tone-0", "tone-1"])
    widths = [float(width) for width in re.findall(r'width="([0-9.]+)" height', bars)]
    assert widths == pytest.approx([widths[3] * 2, widths[3] * 4, 0, widths[3]], abs=0.1) and widths[3] > 10
    rates = [wilson(1, 4).to_dict(), None, wilson(0, 0).to_dict(), wilson(4, 4).to_dict()]
    dots = interval_chart("right", {"where": rates[:2], "count": rates[2:]}, {"a": "", "b": ""}, ["tone-0", "tone-1"])
    (first, last) = re.findall(r'<circle cx="([0-9.]+)"', dots)
    lines = re.findall(r'"whisker" x1="([0-9.]+)" x2="([0-9.]+)"', dots)
    assert len(lines) == 2 and float(lines[0][0]) < float(first) < float(lines[0][1]) < float(last)
    assert ">25%, n = 4<" in dots and ">100%, n = 4<" in dots


def test_success_over_time_counts_every_episode_and_ends_at_the_rate():
    data = evaluation(wins=3).to_dict()
    for episode, steps in zip(data["per_episode"], (30, 10, 20, 60), strict=True):
        episode["steps"] = steps
    assert success_over_time(data, 6.0) == [(0, 0), (1, 0.25), (2, 0.5), (3, 0.75), (6, 0.75)]


def test_the_wall_leads_to_every_outcome_failures_first_and_keeps_their_films_longest(tmp_path, monkeypatch):
    found = evaluation(wins=3)
    size = len(found.episodes[0].rollout.video)
    found.save(tmp_path / "now.json")
    write_report(tmp_path / "report.html", "Title", {"now": tmp_path / "now.json"})
    page = Page(tmp_path / "report.html")
    assert page.links == ["outcome-0", "outcome-1"] == page.ids
    text = page.text[page.text.index("Episodes") :]
    assert text.index("nothing lifted") < text.index("episode 4") < text.index("episode 1") < text.index("episode 3")
    assert "episodes are here" not in text
    monkeypatch.setattr(report_wall, "MAX_FILM_BYTES", size)
    write_report(tmp_path / "report.html", "Title", {"now": tmp_path / "now.json"})
    page = Page(tmp_path / "report.html")
    assert "episode 4" in page.text and "episode 1" not in page.text
    assert "1 of 4 episodes are here, with 1 of 1 failures" in page.text


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
