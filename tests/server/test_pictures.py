"""Pictures of any size have a thread of their own: who sends many waits for them, and no robot does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from aegis_policy.inference.example import example_observation
from aegis_policy.inference.images import encode_image
from aegis_server.app import create_app
from aegis_server.service import Service
from tests.linear_policy import LinearPolicy

SEEN = example_observation(LinearPolicy.info)
IMAGES = {name: encode_image(image) for name, image in SEEN.images.items()}
ACT: dict[str, Any] = {"images": IMAGES, "state": SEEN.state.tolist(), "instruction": SEEN.instruction}
PICTURE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGES['front']}"}}
CHAT = {"model": "linear", "messages": [{"role": "user", "content": [{"type": "text", "text": "what?"}, PICTURE]}]}


@asynccontextmanager
async def busy() -> AsyncIterator[tuple[httpx.AsyncClient, Service, threading.Event]]:
    """A server whose thread for pictures is at one until the event is set."""
    app = create_app(LinearPolicy())
    service, done = app.state.service, threading.Event()
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        while (await client.get("/readyz")).status_code != 200:
            await asyncio.sleep(0.01)
        service.pictures.submit(done.wait, 30)
        try:
            yield client, service, done
        finally:
            done.set()


def test_a_robot_acts_and_asks_while_a_large_picture_is_read() -> None:
    async def case() -> None:
        async with busy() as (client, _, done):
            chat = asyncio.ensure_future(client.post("/v1/chat/completions", json=CHAT))
            for _ in range(10):
                assert (await client.post("/v1/act", json=ACT)).status_code == 200
            asked = {"images": {"front": IMAGES["front"]}, "question": "what?", "stream": False}
            assert (await client.post("/v1/ask", json=asked)).status_code == 200
            assert not chat.done()
            done.set()
            assert (await chat).status_code == 200

    asyncio.run(case())


def test_time_that_a_picture_waits_counts() -> None:
    async def case() -> None:
        async with busy() as (client, service, _):
            late = await client.post("/v1/chat/completions", json=CHAT, headers={"x-deadline-ms": "50"})
            assert late.status_code == 504 and "not done within 0.05 s" in late.json()["error"]["message"]
            assert service.pictures._work_queue.qsize() == 1  # which is empty: its work is cancelled
            assert service.pictures._work_queue.get_nowait().future.cancelled()

    asyncio.run(case())
