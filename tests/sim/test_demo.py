"""The demo: the whole way with real commands, and a plain word when a step of it fails."""

from __future__ import annotations

import json

import pytest

from aegis_sim import demo


def test_a_server_that_does_not_start_ends_the_demo_with_its_log(tmp_path, capsys):
    log = tmp_path / "server.log"
    with pytest.raises(SystemExit, match="aegis: error:"), demo._serving(log, "--checkpoint", tmp_path / "none"):
        pytest.fail("there is nothing to serve")
    assert f"$ aegis serve --checkpoint {tmp_path / 'none'} --port" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.sim
def test_the_whole_way_from_demonstrations_to_a_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, budget in (("DEMONSTRATIONS", 2), ("TRAINING_STEPS", 2), ("EPISODES", 2), ("FILMS", 1)):
        monkeypatch.setattr(demo, name, budget)
    demo.main()
    out = capsys.readouterr().out
    assert "VQA accuracy" in out and str(tmp_path / "runs/demo/report.html") in out
    before, after = (json.loads((tmp_path / f"runs/demo/{label}.json").read_text()) for label in ("before", "after"))
    assert [episode["seed"] for episode in before["per_episode"]] == [
        episode["seed"] for episode in after["per_episode"]
    ]
    assert before["policy"]["checkpoint"] != after["policy"]["checkpoint"]
    assert (tmp_path / "runs/demo/report.html").stat().st_size < 15_000_000
