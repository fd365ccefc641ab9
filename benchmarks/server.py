"""What the server adds to its policy, and what it stands: `python benchmarks/server.py [--minutes 15] [--only PART]`.

    overhead    round trip less what the policy computed: one client, two images of 224 x 224, a cheap policy; beside it
                the same request to uvicorn with nothing behind it
    batching    chunks a second for 8 clients, with several in a pass of the model and one at a time, in turn
    asking      an act's latency while answers are given without a pause, beside the same without any, in turn
    soak        8 to 64 clients that act and ask; errors, latency, memory
    fuzz        malformed websocket messages and requests; how many the server fails on

The policy is the one that ships, but for the overhead and the fuzz. Writes benchmarks/results/server.json, where parts
that were not asked for are kept, and docs/images/server.png. Some 25 minutes, 70 with `--minutes 60`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from multiprocessing import get_context
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import uvicorn
from provenance import ROOT, provenance
from server_plot import draw
from tqdm import tqdm
from websockets.sync.client import connect

sys.path.insert(0, str(ROOT))  # the policy that costs little and the fuzzing are the tests'

from aegis_policy import Camera, Policy
from aegis_policy.inference.example import EXAMPLE_QUESTION, example_observation
from aegis_policy.inference.load import load_policy
from aegis_policy.inference.remote import RemotePolicy
from aegis_policy.inference.wire import CONTENT_TYPE, pack, unpack
from aegis_server.engine import Capacity
from aegis_server.process import listen, run
from aegis_server.settings import Settings
from tests.linear_policy import LinearPolicy
from tests.server.fuzzing import fuzz

RESULTS, PLOT = ROOT / "benchmarks" / "results" / "server.json", ROOT / "docs" / "images" / "server.png"
CALLS = 2_000
ROUNDS, ROUND_S = 6, 12.0  # of each kind, in turn
CLIENTS = (8, 16, 32, 64)  # of the soak, a quarter of its time each
ASKING = 0.25  # share of the soak's clients that ask
FUZZED = 5_000


class Large(LinearPolicy):
    """The linear policy with cameras of 224 x 224."""

    info = replace(LinearPolicy.info, cameras=(Camera("front", 224, 224), Camera("wrist", 224, 224)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=15.0, help="of the soak")
    parser.add_argument("--only", choices=list(PARTS), help="measure this part alone")
    arguments = parser.parse_args()
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in [arguments.only] if arguments.only else PARTS:
        found |= PARTS[name](arguments.minutes)
        found["made"] = {**found.get("made", {}), name: provenance()}
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    if {"soak", "acts_per_s"} <= found.keys():
        draw(found, PLOT)


def overhead(minutes: float) -> dict[str, Any]:
    """Milliseconds of a round trip beyond what the policy computed, by client."""
    with served(Large) as url, serving(_serve_nothing) as nothing:
        took = {"nothing behind it": list(by_http(nothing)), "http": list(by_http(url))}
        took |= {"openpi": list(by_openpi(url)), "RemotePolicy": list(by_remote(url))}
    percentiles = {
        name: {f"p{q}": round(float(np.percentile(ms, q)), 3) for q in (50, 99)} for name, ms in took.items()
    }
    return {"overhead_p50_ms": percentiles["http"]["p50"], "overhead_ms": percentiles, "overhead_calls": CALLS}


def by_http(url: str) -> Iterator[float]:
    """POST /v1/act in msgpack, by Python's own client."""
    body = pack({"images": SEEN.images, "state": SEEN.state, "instruction": SEEN.instruction, "seed": 0})
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for call in range(CALLS + 100):
        began = time.perf_counter()
        connection.request("POST", "/v1/act", body, {"content-type": CONTENT_TYPE})
        answer = unpack(connection.getresponse().read())
        if call >= 100:
            yield 1000 * (time.perf_counter() - began) - answer["model_ms"]


def by_openpi(url: str) -> Iterator[float]:
    """openpi's websocket, the message packed anew for every call as its client does."""
    sent = {**{f"observation/{name}": image for name, image in SEEN.images.items()}}
    sent |= {"observation/state": SEEN.state, "prompt": SEEN.instruction}
    with connect(url.replace("http", "ws"), compression=None, max_size=None) as line:
        line.recv()
        for call in range(CALLS + 100):
            began = time.perf_counter()
            line.send(pack(sent))
            answer = unpack(line.recv())
            if call >= 100:
                yield 1000 * (time.perf_counter() - began) - answer["policy_timing"]["infer_ms"]


def by_remote(url: str) -> Iterator[float]:
    """What `aegis eval` and the ROS node use; it is not told what the policy computed, which is measured here."""
    policy, remote = Large(), RemotePolicy(url)
    for call in range(CALLS + 100):
        began = time.perf_counter()
        policy.act(SEEN, seed=0)
        computed = time.perf_counter() - began
        began = time.perf_counter()
        remote.act(SEEN, seed=0)
        if call >= 100:
            yield 1000 * (time.perf_counter() - began - computed)


def batching(minutes: float) -> dict[str, Any]:
    """Chunks a second, by number of clients and by how many may share a pass."""
    rates: dict[str, list[float]] = {"1": [], "8": [], "8, one at a time": []}
    with served(shipped) as together, served(shipped, batch=1) as alone:
        for _ in tqdm(range(ROUNDS), desc="batching", unit="round"):
            for name, url, clients in (("1", together, 1), ("8", together, 8), ("8, one at a time", alone, 8)):
                rates[name].append(len(Crowd(url, actors=clients).work(ROUND_S).acts) / ROUND_S)
    ratios = np.array(rates["8"]) / np.array(rates["8, one at a time"])
    return {
        "batching_speedup_8": round(float(np.median(ratios)), 2),
        "batching_rounds": [round(float(ratio), 2) for ratio in ratios],
        "acts_per_s": {name: round(float(np.median(values)), 2) for name, values in rates.items()},
    }


def asking(minutes: float) -> dict[str, Any]:
    """An act's latency with two who ask without a pause, beside the same without."""
    quiet: list[float] = []
    asked: list[float] = []
    answers = 0
    with served(shipped) as url:
        for _ in tqdm(range(ROUNDS), desc="asking", unit="round"):
            quiet += Crowd(url, actors=1).work(ROUND_S).acts
            crowd = Crowd(url, actors=1, askers=2).work(ROUND_S)
            asked, answers = asked + crowd.acts, answers + len(crowd.answers)

    def at(q: float) -> float:
        return round(float(np.percentile(asked, q) / np.percentile(quiet, q)), 2)

    return {
        "act_p99_ratio_while_asking": at(99),
        "act_p50_ratio_while_asking": at(50),
        "asking": {"acts": len(asked), "acts_quiet": len(quiet), "answers": answers},
    }


def soak(minutes: float) -> dict[str, Any]:
    """More and more clients that act and ask; every failure counts."""
    rows: list[dict[str, Any]] = []
    with served(shipped) as url, tqdm(total=round(4 * minutes), desc="soak", unit="quarter") as progress:
        for clients in CLIENTS:
            askers = round(ASKING * clients)
            crowd = Crowd(url, actors=clients - askers, askers=askers)
            with crowd.working():
                for _ in range(round(minutes)):  # each a quarter of a minute
                    acts, answers = len(crowd.acts), len(crowd.answers)
                    time.sleep(15.0)
                    latest, answered = crowd.acts[acts:], crowd.answers[answers:]
                    acted = {"acts": len(latest), **{f"act_p{q}_s": percentile(latest, q) for q in (50, 99)}}
                    asked = {"answers": len(answered), "answer_p99_s": percentile(answered, 99)}
                    rest = {"errors": len(crowd.errors), "rss_mb": round(memory_mb(url), 2)}
                    rows.append({"clients": clients, **acted, **asked, **rest})
                    progress.update()
                    progress.set_postfix(clients=clients, errors=len(crowd.errors), rss=rows[-1]["rss_mb"])
            if crowd.errors:
                tqdm.write(f"{len(crowd.errors)} errors, the first: {crowd.errors[0]}", file=sys.stderr)
    slope = round(memory_slope(rows), 1)
    errors = sum(max(row["errors"] for row in rows if row["clients"] == clients) for clients in CLIENTS)
    return {"soak": {"minutes": minutes, "errors": errors, "rss_slope_mb_per_h": slope, "quarters": rows}}


def memory_slope(rows: Sequence[dict[str, Any]]) -> float:
    """Mebibytes an hour, among quarters with the same clients: more clients fill larger buffers, which stay.

    Of each, the first third is left out, in which they fill.
    """
    hours, memory = list[float](), list[float]()
    for clients in CLIENTS:
        own = [(15 / 3600 * index, row["rss_mb"]) for index, row in enumerate(rows) if row["clients"] == clients]
        times, sizes = np.array(own[len(own) // 3 :]).T
        hours += list(times - times.mean())
        memory += list(sizes - sizes.mean())
    return float(np.dot(hours, memory) / np.dot(hours, hours))


def fuzzed(minutes: float) -> dict[str, Any]:
    with served(LinearPolicy) as url:
        return {"fuzz": fuzz(url, FUZZED, seed=0)}


PARTS: dict[str, Callable[[float], dict[str, Any]]] = {
    "overhead": overhead,
    "batching": batching,
    "asking": asking,
    "soak": soak,
    "fuzz": fuzzed,
}
SEEN = example_observation(Large.info)


class Crowd:
    """Clients, a thread each, that act or ask as fast as they are answered.

    Attributes:
        acts, answers: seconds that each took.
        errors: what went wrong.
    """

    def __init__(self, url: str, *, actors: int, askers: int = 0) -> None:
        self.url, self.acts, self.answers, self.errors = url, list[float](), list[float](), list[str]()
        self._over = threading.Event()
        self._threads = [
            *(threading.Thread(target=self._use, args=(self._act, self.acts)) for _ in range(actors)),
            *(threading.Thread(target=self._use, args=(self._ask, self.answers)) for _ in range(askers)),
        ]

    @contextmanager
    def working(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join()

    def work(self, seconds: float) -> Crowd:
        with self.working():
            time.sleep(seconds)
        return self

    def _use(self, once: Callable[[RemotePolicy], None], took: list[float]) -> None:
        policy = RemotePolicy(self.url)
        while not self._over.is_set():
            began = time.perf_counter()
            try:
                once(policy)
            except Exception as error:
                self.errors.append(repr(error))
                time.sleep(0.5)
            else:
                took.append(time.perf_counter() - began)

    @staticmethod
    def _act(policy: RemotePolicy) -> None:
        policy.act(example_observation(policy.info))

    @staticmethod
    def _ask(policy: RemotePolicy) -> None:
        "".join(policy.ask(example_observation(policy.info).images, EXAMPLE_QUESTION))


def percentile(values: Sequence[float], q: float) -> float | None:
    """None of nothing."""
    return round(float(np.percentile(values, q)), 3) if values else None


def shipped() -> Policy:
    return load_policy()


def served(make: Callable[[], Policy], batch: int = 16) -> AbstractContextManager[str]:
    """A server of that policy in a process of its own; gives its address."""
    return serving(_serve, make, batch)


@contextmanager
def serving(serve: Callable[..., None], *arguments: Any) -> Iterator[str]:
    """`serve`, told a port and `arguments`, in a process of its own; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = get_context("spawn").Process(target=serve, args=(port, *arguments), daemon=True)
    process.start()
    url = f"http://127.0.0.1:{port}"
    try:
        while not _ready(url):
            if not process.is_alive():
                raise RuntimeError("the server has ended")
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.join()


def _serve(port: int, make: Callable[[], Policy], batch: int) -> None:
    run(make(), port=port, settings=Settings(capacity=Capacity(batch=batch, acts=256)))


def _serve_nothing(port: int) -> None:
    """The server's server with no framework and no policy: reads a request, and answers with an empty chunk."""
    chunk = pack({"actions": np.zeros((Large.info.horizon, len(Large.info.actions)), np.float32), "model_ms": 0.0})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while scope["type"] == "http" and (await receive()).get("more_body"):
            pass
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": chunk})

    config = uvicorn.Config(app, port=port, log_config=None, access_log=False, lifespan="off")
    uvicorn.Server(config).run(sockets=[listen(config)])


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False).is_success
    except httpx.TransportError:
        return False


def memory_mb(url: str) -> float:
    """What the server's process has in memory."""
    text = httpx.get(f"{url}/metrics", trust_env=False, timeout=30).text
    found = re.search(r"^process_resident_memory_bytes (\S+)$", text, re.MULTILINE)
    assert found
    return float(found[1]) / 2**20


if __name__ == "__main__":
    main()
