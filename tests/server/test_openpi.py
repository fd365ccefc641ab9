"""openpi's unmodified client against the server: what it is told, what it gets, and how it hears of mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aegis_policy import Observation
from tests.linear_policy import LINEAR, LinearPolicy, Server, serving
from tests.server import clients

INFO = LinearPolicy.info
NOISE = 0.06  # openpi's protocol has no seed; this is six standard deviations of the linear policy's noise
pytestmark = clients.needed


@pytest.fixture(scope="module")
def found(server: Server) -> dict[str, Any]:
    """What openpi_script.py saw."""
    return clients.run("openpi_script.py", server.url.replace("http", "ws"))


def expected(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    images = {camera.name: rng.integers(0, 256, (camera.height, camera.width, 3), np.uint8) for camera in INFO.cameras}
    state = np.array([0.1, -0.2, 0.05], np.float32)
    return LinearPolicy().act(Observation(images, state, "pick up the red cube"), seed=0).actions


def test_the_client_is_told_what_the_policy_is(found: dict[str, Any]) -> None:
    metadata = found["metadata"]
    assert metadata["cameras"] == {"front": [12, 16], "wrist": [8, 8]}
    named = {name: metadata[name] for name in ("state_dim", "action_dim", "horizon", "control_hz", "model")}
    assert named == {"state_dim": 3, "action_dim": 3, "horizon": 4, "control_hz": 10.0, "model": "linear"}


def test_infers_as_the_policy_acts(found: dict[str, Any]) -> None:
    assert found["keys"][0] == ["actions", "policy_timing", "server_timing"]
    assert found["keys"][1:] == [["infer_ms"], ["infer_ms", "prev_total_ms"]]
    assert found["dtype"] == "<f4" and found["infer_ms"] > 0
    for actions in found["actions"]:  # the second time from a PNG file
        np.testing.assert_allclose(actions, expected(0), atol=2 * NOISE)
    assert found["actions"][0] != found["actions"][1]
    assert found["by host and port"] is None


def test_the_client_s_broker_steps_through_a_chunk_and_then_asks_again(found: dict[str, Any]) -> None:
    actions, calls = zip(*found["steps"], strict=True)
    assert calls == (1, 1, 1, 1, 2)
    np.testing.assert_allclose(actions[:4], expected(1), atol=2 * NOISE)
    np.testing.assert_allclose(actions[4], expected(1)[0], atol=2 * NOISE)


REASONS = {
    "missing camera": "missing key 'observation/wrist'",
    "missing state": "missing key 'observation/state'",
    "missing prompt": "missing key 'prompt'",
    "unknown key": "unknown key 'observation/side'",
    "dtype": "camera 'front': expected uint8[12, 16, 3], got float32[12, 16, 3]",
    "shape": "camera 'front': expected uint8[12, 16, 3], got uint8[3, 12, 16]",
    "state": "state: expected 3 floats ['x', 'y', 'opening'], got float32[2]",
    "infinite state": "state: not a finite number: y",
    "prompt": "instruction: empty",
    "long prompt": "instruction: String should have at most 500 characters",
    "bug": "internal error; see the server's log",
}


@pytest.mark.parametrize("mistake", REASONS)
def test_the_client_raises_our_words(found: dict[str, Any], mistake: str) -> None:
    kind, words = found["refused"][mistake]
    assert kind == "RuntimeError"
    assert words.startswith(f"Error in inference server:\n{REASONS[mistake]}")


def test_the_client_s_key_opens_the_server_and_no_other_does(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a-key-of-enough-characters\n")
    with serving(tmp_path / "log", *LINEAR, "--keys", str(keys)) as server:
        server.wait()
        found = clients.run(
            "openpi_script.py", server.url.replace("http", "ws"), keys.read_text().strip(), "another", ""
        )
    assert found.pop("a-key-of-enough-characters") is None
    for kind, words in found.values():
        assert kind == "InvalidStatus" and "401" in words
