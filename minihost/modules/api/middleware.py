"""What every route of the server shares: compression, origins, errors as JSON."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import HTTPException
from fastapi.responses import JSONResponse
from modules import errors
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware

log = logging.getLogger(__name__)

KEPT = b"public, max-age=31536000, immutable"


def _add(app: FastAPI, cls: type, **options: Any) -> None:
    """Put middleware outermost, also into an application that answers requests already.

    The running stack stays in place until `close_middleware` swaps it, so no request falls between.
    """
    app.user_middleware.insert(0, Middleware(cls, **options))


def close_origins(app: FastAPI) -> None:
    """Take off gradio's middleware that lets the page of any origin read the answers."""
    app.user_middleware = [x for x in app.user_middleware if x.cls.__name__ != "CORSMiddleware"]


class KeptAssets:
    """Lets browsers keep gradio's own files, whose names change with their content."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def tell(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"cache-control", KEPT)]
            await send(message)

        is_asset = scope["type"] == "http" and scope["path"].startswith("/assets/")
        await self.app(scope, receive, tell if is_asset else send)


def setup_middleware(app: FastAPI) -> None:
    """Add the host's own middleware to an application."""
    _add(app, GZipMiddleware, minimum_size=1000, compresslevel=1)
    _add(app, KeptAssets)


def close_middleware(app: FastAPI) -> None:
    """Put the stack into use; from here on the application refuses further middleware."""
    app.middleware_stack = app.build_middleware_stack()


def error_response(e: Exception) -> JSONResponse:
    """Answer of every failed route: `{error, detail, body, errors}`."""
    # Newer anyio wraps what a route raises in groups of one, once per middleware.
    while len(getattr(e, "exceptions", ())) == 1:
        e = e.exceptions[0]
    err = {
        "error": type(e).__name__,
        "detail": vars(e).get("detail", ""),
        "body": vars(e).get("body", ""),
        "errors": str(e),
    }
    if not isinstance(e, HTTPException):
        errors.report(f"API error: {err}", exc_info=e.__traceback__ is not None)
    return JSONResponse(
        status_code=vars(e).get("status_code", 500),
        content=jsonable_encoder(err),
        headers=vars(e).get("headers"),
    )


async def _catch(request: Request, call_next: Callable) -> Any:
    try:
        return await call_next(request)
    except Exception as e:
        return error_response(e)


async def _answer(_request: Request, e: Exception) -> JSONResponse:
    return error_response(e)


def api_middleware(app: FastAPI) -> None:
    """Turn exceptions of all routes into JSON."""
    _add(app, BaseHTTPMiddleware, dispatch=_catch)
    app.exception_handlers |= {Exception: _answer, HTTPException: _answer}
