"""A server of `Wandering`, as a process; see `tests.linear_policy.serving`."""

from __future__ import annotations

import argparse
import logging

from aegis_server.process import run
from tests.sim.policies import Wandering

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    logging.basicConfig(level=logging.INFO)
    run(Wandering(), port=parser.parse_args().port)
