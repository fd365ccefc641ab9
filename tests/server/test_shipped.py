"""The policy that ships, served by `aegis serve` and used through HTTP: what a new user does first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from aegis_policy import Observation
from aegis_policy.inference.remote import RemotePolicy
from aegis_server.schemas import act_example
from tests.linear_policy import serving

AEGIS = str(Path(sys.executable).with_name("aegis"))


def test_the_shipped_policy_is_the_same_policy_through_http(tmp_path: Path) -> None:
    from aegis_policy.inference.load import load_policy

    with serving(tmp_path / "log", AEGIS, "serve") as server:
        local = load_policy(None)  # while the server loads its own
        server.wait()
        remote = RemotePolicy(server.url)
        assert remote.info == local.info
        rng = np.random.default_rng(0)
        images = {
            camera.name: rng.integers(0, 256, (camera.height, camera.width, 3), np.uint8)
            for camera in local.info.cameras
        }
        seen = Observation(images, np.zeros(len(local.info.state), np.float32), local.info.instructions[0], stamp=1.5)
        ours, theirs = local.act(seen, seed=4), remote.act(seen, seed=4)
        np.testing.assert_allclose(theirs.actions, ours.actions, rtol=1e-4, atol=1e-5)
        assert theirs.stamp == 1.5
        question = "what colour is the cube?"
        assert "".join(remote.ask(images, question)) == "".join(local.ask(images, question)) != ""

        paths = httpx.get(f"{server.url}/openapi.json").json()["paths"]
        for path in ("/v1/act", "/v1/ask"):
            example = paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]["examples"][0]
            assert httpx.post(server.url + path, json=example, timeout=30).status_code == 200

        many = {"instruction": "(" * 300}  # each of them a token
        refused = httpx.post(f"{server.url}/v1/act", json={**act_example(local.info), **many}, timeout=30)
        assert refused.status_code == 422
        assert "302 tokens, at most 256" in refused.json()["detail"]

        first = local.info.cameras[0].name
        Image.fromarray(images[first]).save(tmp_path / "scene.png")
        command = [AEGIS, "ask", "--image", str(tmp_path / "scene.png"), "--checkpoint", server.url, question]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout == "".join(local.ask({first: images[first]}, question)) + "\n"

        server.process.terminate()
        assert server.process.wait(timeout=30) == 0
