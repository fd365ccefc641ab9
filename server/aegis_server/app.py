"""FastAPI in front of a policy: the routes together, the layers around them, and what each refusal looks like."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

import aegis_policy
from aegis_policy import ObservationError, Policy
from aegis_policy.inference.wire import WireError
from aegis_server import refusals
from aegis_server.access import Access, lock
from aegis_server.guard import Guard
from aegis_server.robot import Link
from aegis_server.routes import console, docs, native, openai, openpi, robot, stream, system
from aegis_server.service import RefusedError, Service
from aegis_server.settings import Settings, max_body


def create_app(
    policy: Policy,
    settings: Settings | None = None,
    load: Callable[[], Policy] | None = None,
    *,
    alone: bool = True,
) -> FastAPI:
    """The server of one policy, whichever backend is behind it.

    Args:
        settings: what is allowed.
        load: makes the policy anew, for POST /v1/reload.
        alone: whether no other process answers at this address. Only then do robots attach, and people stop them in the
            console: a stop that reaches one process is none for the robot of another.
    """
    settings = settings or Settings()
    service = Service(policy, settings, load)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        warming = asyncio.create_task(service.warm_up())
        try:
            yield
        except asyncio.CancelledError:
            pass  # all the notice that uvicorn gives of the end after a second Ctrl+C
        finally:
            warming.cancel()
            await asyncio.wait([warming])
            service.pictures.shutdown(wait=False, cancel_futures=True)
            await asyncio.to_thread(service.engine.close)  # its thread would keep the process alive
            await asyncio.to_thread(service.tracing.close)

    app = FastAPI(
        title="AEGIS policy server", version=aegis_policy.__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.service = service
    for routes in (native, openai, openpi, stream, system):
        app.include_router(routes.router(service))
    app.include_router(docs.router())
    app.state.link = link = Link()
    if alone:
        app.include_router(robot.router(link))
        app.include_router(console.router(service, link))
    if settings.keys:
        app.openapi_schema = lock(app.openapi())
    app.add_middleware(Access, settings=settings)  # the last that is added is the outermost
    if settings.origins:
        app.add_middleware(CORSMiddleware, allow_origins=settings.origins, allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(Guard, max_body(service.info), service.metrics, service.tracing)
    for error in (ObservationError, WireError, RefusedError, HTTPException):
        app.add_exception_handler(error, refuse)
    return app


async def refuse(request: Request, error: Exception) -> JSONResponse:
    """What is refused, in the words of the route's own protocol."""
    path, headers = request.url.path, {}
    status = 400 if refusals.is_openai(path) else 422
    text = str(error)
    if isinstance(error, HTTPException):
        status, headers, text = error.status_code, dict(error.headers or {}), str(error.detail)
    elif isinstance(error, RefusedError):
        status = error.status
        headers = {} if error.retry_s is None else {"retry-after": str(error.retry_s)}
    return JSONResponse(refusals.body(path, status, text), status, headers)
