"""What a robot that speaks openpi's protocol does, by its unmodified client; run by test_openpi.py elsewhere."""

import io
import json
import sys

import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from PIL import Image


def observed(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "observation/front": rng.integers(0, 256, (12, 16, 3), np.uint8),
        "observation/wrist": rng.integers(0, 256, (8, 8, 3), np.uint8),
        "observation/state": np.array([0.1, -0.2, 0.05], np.float32),
        "prompt": "pick up the red cube",
    }


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def changed(**parts):
    """An observation with parts changed, or, where None, left out."""
    seen = {**observed(), **{key.replace("__", "/"): value for key, value in parts.items()}}
    return {key: value for key, value in seen.items() if value is not None}


WRONG = {
    "missing camera": changed(observation__wrist=None),
    "missing state": changed(observation__state=None),
    "missing prompt": changed(prompt=None),
    "unknown key": changed(observation__side=np.zeros((8, 8, 3), np.uint8)),
    "dtype": changed(observation__front=np.zeros((12, 16, 3), np.float32)),
    "shape": changed(observation__front=np.zeros((3, 12, 16), np.uint8)),
    "state": changed(observation__state=np.zeros(2, np.float32)),
    "infinite state": changed(observation__state=np.array([0, np.inf, 0])),
    "prompt": changed(prompt=" "),
    "long prompt": changed(prompt="x" * 501),
    "bug": changed(prompt="break"),
}


def refusal(seen, *where, **options):
    try:
        WebsocketClientPolicy(*where, **options).infer(seen)
    except Exception as error:
        return [type(error).__name__, str(error)]
    return None


def main(url):
    policy = WebsocketClientPolicy(url)
    as_file = changed(observation__front=png(observed()["observation/front"]))
    first, second = (
        policy.infer(observed()),
        policy.infer(as_file),
    )
    broker, calls = ActionChunkBroker(policy, action_horizon=4), []
    infer, policy.infer = policy.infer, lambda seen: calls.append(1) or infer(seen)
    steps = [(broker.infer(observed(1))["actions"], len(calls)) for _ in range(5)]
    host, port = url.removeprefix("ws://").split(":")
    found = {
        "metadata": policy.get_server_metadata(),
        "keys": [sorted(first), sorted(first["server_timing"]), sorted(second["server_timing"])],
        "dtype": first["actions"].dtype.str,
        "infer_ms": first["policy_timing"]["infer_ms"],
        "actions": [first["actions"].tolist(), second["actions"].tolist()],
        "steps": [[action.tolist(), count] for action, count in steps],
        "by host and port": refusal(observed(), host, int(port)),
        "refused": {name: refusal(seen, url) for name, seen in WRONG.items()},
    }
    print(json.dumps(found))


def keyed(url, *keys):
    print(json.dumps({key: refusal(observed(), url, api_key=key) for key in keys}))


if __name__ == "__main__":
    (keyed if len(sys.argv) > 2 else main)(*sys.argv[1:])
