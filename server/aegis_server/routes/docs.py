"""The page at `/docs`: every route with an example that can be sent, by Swagger UI, from this server alone.

A robot's network may have no internet, and a script that another site gives would act in the name of whoever looks.
"""

from __future__ import annotations

import mimetypes
from importlib.resources import files

from fastapi import APIRouter, HTTPException, Response

from aegis_server.routes.console import HEADERS

POLICY = "content-security-policy"
OURS = {POLICY: f"{HEADERS[POLICY]}; style-src 'self' 'unsafe-inline'"}  # Swagger UI writes styles into its elements


def router() -> APIRouter:
    """GET /docs, and the files of the page."""
    routes = APIRouter(include_in_schema=False)
    static, swagger = files("aegis_server") / "static", files("fastapi_offline") / "static"
    found = [static / "docs" / "docs.html", static / "docs" / "docs.js", static / "icon.svg"]
    found += [swagger / "swagger-ui.css", swagger / "swagger-ui-bundle.js"]
    parts = {file.name: file.read_bytes() for file in found}

    @routes.get("/docs")
    async def page() -> Response:
        return await part("docs.html")

    @routes.get("/docs/{name}")
    async def part(name: str) -> Response:
        if name not in parts:
            raise HTTPException(404, f"the documentation has no '{name}'")
        return Response(parts[name], media_type=mimetypes.guess_type(name)[0], headers=HEADERS | OURS)

    return routes
