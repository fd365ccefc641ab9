"""Work shared among the machines of a Ray cluster, as `workers` shares it among processes.

Ray starts an actor again when its process or machine dies, and sends it the item it was at. Whoever can reach a cluster
can run code on it: give it no address that strangers reach.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

from aegis_sim.workers import MAX_DEATHS, Tool, in_order

R = TypeVar("R")


def spread_on_ray(
    address: str, make: Callable[[], Tool[Any, R]], items: Sequence[Any], workers: int
) -> Generator[R, None, None]:
    """The result of each item, in the order of `items`, from `workers` actors of one CPU each.

    Args:
        address: of the cluster, as `ray.init` takes it; "local" starts one on this machine, and ends it.
        make, items: as for `workers.spread`. This package, and what `make` loads, must be on every machine.
        workers: actors; each gets an equal share of the cluster's GPUs, where it has any.

    Raises:
        ValueError: Ray is not installed, or the cluster has fewer CPUs than `workers`.
        ConnectionError: no cluster at `address`.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use over the network
    try:
        import ray
        from ray.exceptions import RayActorError, RayTaskError
        from ray.util import ActorPool
    except ModuleNotFoundError as error:
        raise ValueError(f"--ray {address} needs the package 'ray': pip install \"aegis-policy[ray]\"") from error
    local: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    ray.init(address=address, **local)
    try:
        resources = ray.cluster_resources()
        if workers > resources.get("CPU", 0):
            raise ValueError(f"--workers {workers}: the cluster at '{address}' has {resources.get('CPU', 0):.0f} CPUs")
        actor = ray.remote(_Actor).options(
            num_cpus=1,
            num_gpus=gpu_share(workers, int(resources.get("GPU", 0))),
            max_restarts=-1,
            max_task_retries=MAX_DEATHS - 1,
        )
        pool = ActorPool([actor.remote(make) for _ in range(min(workers, len(items)))])
        work: Any = enumerate(items)  # ActorPool asks for a list and takes any iterable
        yield from in_order(pool.map_unordered(lambda one, numbered: one.work.remote(*numbered), work))
    except RayTaskError as error:  # what a tool raised, wrapped up with a traceback of the other process
        raise error.cause from error
    except RayActorError as error:
        raise RuntimeError(f"{MAX_DEATHS} workers died over the same work: {error}") from error
    finally:
        ray.shutdown()


def gpu_share(workers: int, gpus: int) -> float:
    """The GPU that each of `workers` may ask for so that all of them fit on `gpus`, none of them split over two."""
    return 1 / math.ceil(workers / gpus) if gpus else 0.0


class _Actor:
    def __init__(self, make: Callable[[], Tool[Any, Any]]) -> None:
        os.environ.setdefault("LP_NUM_THREADS", "1")  # as in `workers`
        self._make = make
        self._tool: Tool[Any, Any] | None = None

    def work(self, index: int, item: Any) -> tuple[int, Any]:
        if self._tool is None:  # not sooner: an error while an actor is made would only have it made again
            self._tool = self._make()
        return index, self._tool(item)
