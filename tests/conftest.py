"""What every test needs: headless rendering, no network, and the same hypothesis examples on every run."""

from __future__ import annotations

import os

os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that needs the hub is a test that can fail for its weather
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from hypothesis import settings

settings.register_profile("aegis", deadline=None, derandomize=True)
settings.load_profile("aegis")
