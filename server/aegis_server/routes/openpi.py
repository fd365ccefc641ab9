"""openpi's websocket protocol at `/`, for its own client and all that have learnt to speak it.

The server says what the policy is, in one message; then, in turn, an observation comes and its actions go. All are maps
in msgpack. What is wrong is said in a text message, which the client raises as an error, and ends the connection
(1011; 1013 for what may work later).
"""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from aegis_policy import Observation, ObservationError, PolicyInfo
from aegis_policy.inference.wire import WireError, pack, unpack
from aegis_server.engine import Acted
from aegis_server.routes.sockets import Reader, accept, fail
from aegis_server.schemas import ActOptions, observation_from_map, validated
from aegis_server.service import RefusedError, Service

PREFIX = "observation/"
STATE, PROMPT = "observation/state", "prompt"


def router(service: Service) -> APIRouter:
    """The websocket at `/`."""
    routes = APIRouter()

    @routes.websocket("/")
    async def infer(socket: WebSocket) -> None:
        await accept(socket)
        try:
            await socket.send_bytes(pack(metadata(service.info)))
            previous_ms: float | None = None
            async with Reader(socket) as reader:
                while True:
                    message = await reader.next()
                    began = time.perf_counter()
                    with service.observation(socket):
                        with service.stage("act", "decode"):
                            observation = await read(service.info, message)
                        acted = await reader.unless_gone(service.act(observation))
                        with service.stage("act", "encode"):
                            await socket.send_bytes(_answer(acted, previous_ms))
                    previous_ms = 1000 * (time.perf_counter() - began)
        except (ObservationError, WireError, RefusedError) as error:
            await fail(socket, str(error), 1013 if isinstance(error, RefusedError) else 1011)
        except WebSocketDisconnect:
            pass  # the client has what it came for
        except Exception:
            await fail(socket, "internal error; see the server's log", 1011)
            raise

    return routes


def _answer(acted: Acted, previous_ms: float | None) -> bytes:
    timing = {"infer_ms": 1000 * (acted.queue_s + acted.model_s)}
    return pack(
        {
            "actions": acted.chunk.actions,
            "policy_timing": {"infer_ms": 1000 * acted.model_s},
            "server_timing": timing if previous_ms is None else {**timing, "prev_total_ms": previous_ms},
        }
    )


def metadata(info: PolicyInfo) -> dict[str, Any]:
    """What a client is told first."""
    return {
        "model": info.model,
        "cameras": {camera.name: [camera.height, camera.width] for camera in info.cameras},
        "state_dim": len(info.state),
        "action_dim": len(info.actions),
        "horizon": info.horizon,
        "control_hz": info.control_hz,
        "state": [feature.name for feature in info.state],
        "actions": [feature.name for feature in info.actions],
        "instructions": list(info.instructions),
    }


async def read(info: PolicyInfo, message: bytes | str) -> Observation:
    """An observation from a client's message.

    Raises:
        WireError: not msgpack.
        ObservationError: not a map, or one that does not fit `info`.
    """
    sent = unpack(message) if isinstance(message, bytes) else None
    if not isinstance(sent, dict):
        raise ObservationError("expected a map in msgpack, as a binary message; this is openpi's protocol")
    expected = [*(f"{PREFIX}{camera.name}" for camera in info.cameras), STATE, PROMPT]
    if unknown := [key for key in sent if key not in expected]:
        raise ObservationError(f"unknown key {unknown[0]!r}: this policy takes {expected}")
    if missing := [key for key in expected if key not in sent]:
        raise ObservationError(f"missing key '{missing[0]}': this policy takes {expected}")
    images = {camera.name: sent[f"{PREFIX}{camera.name}"] for camera in info.cameras}
    said = validated(ActOptions, {"instruction": sent[PROMPT]})
    return await observation_from_map(info, images, sent[STATE], said)
