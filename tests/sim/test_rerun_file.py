"""A recording for the Rerun viewer, read back with Rerun's own reader, says what the evaluation saw and did."""

from __future__ import annotations

import io
import operator
import sys
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aegis_sim import commands
from aegis_sim.rerun_file import rerun_file
from aegis_sim.results import Episode
from aegis_sim.rollout import run_episodes
from tests.sim.policies import INFO, Wandering
from tests.sim.test_rollout import Counting

SECONDS = operator.itemgetter("time")
SEEDS = [9, 30]  # and the lengths of their episodes; odd ones succeed

needs_rerun = pytest.mark.skipif(find_spec("rerun") is None, reason="the extra rerun is not installed")


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    return run_episodes(Wandering(), [Counting() for _ in SEEDS], SEEDS, traced=True)


def read(path: Path) -> dict[str, list[dict]]:
    """Entity -> its rows in order of time, or, of what holds at all times, "ENTITY static" -> its row; short names."""
    from rerun.chunk import RrdReader

    reader = RrdReader(path)
    assert len(reader.recordings()) == len(reader.blueprints()) == 1
    rows = defaultdict(list)
    for chunk in reader.stream().to_chunks():
        for row in chunk.to_record_batch().to_pylist():
            short = {name.rpartition(":")[2]: value for name, value in row.items()}
            rows[chunk.entity_path.strip("/") + " static" * chunk.is_static].append(short)
    return {entity: found if "static" in entity else sorted(found, key=SECONDS) for entity, found in rows.items()}


@needs_rerun
def test_what_is_read_back_is_what_was_seen_done_and_said(episodes, tmp_path):
    path = tmp_path / "new" / "found.rrd"
    with rerun_file(path) as record:
        for episode in episodes:
            record(INFO, episode)
        assert not path.exists()
    assert list(path.parent.iterdir()) == [path]
    found, rate = read(path), INFO.control_hz
    traces = [episode.rollout.trace for episode in episodes]
    starts = [0.0, (SEEDS[0] + 1) / rate]

    assert set(found) - {"__properties static"} == {
        *("camera/front", "camera/wrist", "state", "action", "state static", "action static"),
        *("instruction", "questions", "outcome"),
    }
    instants = [(index, starts[index] + step / rate) for index, seed in enumerate(SEEDS) for step in range(seed + 1)]
    for entity in ("camera/front", "camera/wrist", "state"):
        assert np.allclose(when(found[entity]), instants)
    states = np.concatenate([trace.states for trace in traces])
    assert np.array_equal([row["scalars"] for row in found["state"]], states)
    assert found["state static"][0]["names"][-2:] == ["rz [rad]", "opening [m]"]
    actions = np.concatenate([trace.actions for trace in traces])
    assert np.array_equal([row["scalars"] for row in found["action"]], actions)
    assert np.allclose(np.diff(traces[0].states, axis=0), traces[0].actions, atol=1e-6)  # as Counting moves
    ends = [(0, 0.9), (1, 4.0)]
    assert np.allclose(when(found["action"]), [one for one in instants if not np.isclose(one[1], (0.9, 4.0)).any()])
    for row, (episode, seconds) in zip(found["camera/wrist"], instants, strict=True):
        image = np.asarray(Image.open(io.BytesIO(bytes(row["blob"][0]))))
        assert (image == SEEDS[episode] + round((seconds - starts[episode]) * rate)).all()

    assert [row["text"] for row in found["instruction"]] == [["count to 9 (seed 9)"], ["count to 30 (seed 30)"]]
    assert [row["text"][0][:8] for row in found["outcome"]] == ["success", "failure:"]
    assert np.allclose(when(found["outcome"]), ends)
    asked = [(index, one) for index, episode in enumerate(episodes) for one in episode.asked]
    assert np.allclose(when(found["questions"]), [(index, starts[index] + one.step / rate) for index, one in asked])
    for row, (_, one) in zip(found["questions"], asked, strict=True):
        assert row["text"] == [f"{one.question}? {one.answer} (truth: yes)"]
        assert row["level"] == ["INFO" if one.right else "WARN"]


@needs_rerun
def test_what_fails_leaves_the_old_file(episodes, tmp_path):
    path = tmp_path / "found.rrd"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="lost"), rerun_file(path) as record:
        record(INFO, episodes[0])
        raise OSError("lost the server")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_without_the_package_it_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(ValueError, match=r'"aegis-policy\[rerun\]"'):
        commands.evaluate(rerun=tmp_path / "found.rrd")
    assert not any(tmp_path.iterdir())


def test_tracing_changes_nothing(episodes):
    assert episodes == run_episodes(Wandering(), [Counting() for _ in SEEDS], SEEDS)


def when(rows: list[dict]) -> list[tuple[int, float]]:
    """On both timelines: which episode, and simulated seconds."""
    return [(row["episode"], row["time"].total_seconds()) for row in rows]
