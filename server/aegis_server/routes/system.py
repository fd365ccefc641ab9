"""For whoever runs the server: alive, ready, measured, reloaded."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException, Response
from prometheus_client import CONTENT_TYPE_LATEST

from aegis_policy import PolicyInfo
from aegis_server.routes.http import refused_with
from aegis_server.schemas import Detail, Health
from aegis_server.service import READY, ReloadError, Service

NOT_READY: dict[int | str, dict[str, Any]] = {503: {"model": Health, "description": "Not ready"}}


def router(service: Service) -> APIRouter:
    """GET /livez, /readyz, /metrics; POST /v1/reload."""
    routes = APIRouter(tags=["operation"], responses=refused_with(Detail, 403, 500))
    closed = refused_with(Detail, 401)

    @routes.get("/livez")
    async def livez() -> Health:
        """Whether the process answers at all."""
        return Health(status="ok")

    @routes.get("/readyz", responses=NOT_READY)
    async def readyz(response: Response) -> Health:
        """Whether the policy has warmed up and is ready to act."""
        response.status_code = 200 if service.health == READY else 503
        return Health(status=service.health)

    @routes.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, **closed})
    async def metrics() -> Response:
        """For Prometheus: latencies by stage, queue, batch sizes, refusals, the process."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @routes.post("/v1/reload", responses={**closed, **refused_with(Detail, 409)})
    async def reload() -> PolicyInfo:
        """Load the checkpoint anew from where it came, as after further training; SIGHUP does the same."""
        try:
            return await service.reload()
        except ReloadError as error:
            raise HTTPException(409, str(error)) from error

    return routes
