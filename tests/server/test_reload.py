"""Reloads that are asked for while one is under way."""

from __future__ import annotations

import asyncio
import threading

import pytest

from aegis_server.service import READY, ReloadError, Service
from aegis_server.settings import Settings
from tests.linear_policy import LinearPolicy


def test_a_signal_during_a_reload_is_not_lost() -> None:
    """What is being loaded may be older than what the signal speaks of."""
    loading, go_on, loads = threading.Event(), threading.Event(), []

    def load() -> LinearPolicy:
        loads.append(len(loads))
        loading.set()
        go_on.wait(30)
        return LinearPolicy()

    async def case() -> None:
        service = Service(LinearPolicy(), Settings(), load)
        service.health = READY
        first = asyncio.ensure_future(service.reload())
        await asyncio.to_thread(loading.wait, 30)
        with pytest.raises(ReloadError, match="under way already"):
            await service.reload()
        second = asyncio.ensure_future(service.reload(patient=True))
        await asyncio.sleep(0.05)
        assert loads == [0] and not second.done()
        go_on.set()
        await asyncio.gather(first, second)
        assert loads == [0, 1]

    asyncio.run(case())
