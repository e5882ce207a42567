"""What every route of the server shares: compression, origins, errors as JSON."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import HTTPException
from fastapi.responses import JSONResponse
from modules import errors
from modules.shared_cmd_options import cmd_opts
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware

log = logging.getLogger(__name__)


def setup_middleware(app: FastAPI) -> None:
    """Open a started application for middleware and add the host's own."""
    app.middleware_stack = None
    if cmd_opts.cors_allow_origins or cmd_opts.cors_allow_origins_regex:
        app.add_middleware(
            CORSMiddleware,
            allow_methods=["*"],
            allow_credentials=True,
            allow_headers=["*"],
            allow_origins=(cmd_opts.cors_allow_origins or "").split(","),
            allow_origin_regex=cmd_opts.cors_allow_origins_regex,
        )
    app.add_middleware(GZipMiddleware, minimum_size=1000)


def close_middleware(app: FastAPI) -> None:
    """Build the stack; from here on the application refuses further middleware."""
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


def api_middleware(app: FastAPI) -> None:
    """Turn exceptions of all routes into JSON, and log requests if asked."""

    @app.middleware("http")
    async def log_and_time(req: Request, call_next: Callable) -> Any:
        started = time.time()
        res = await call_next(req)
        took = f"{time.time() - started:.4f}"
        res.headers["X-Process-Time"] = took
        endpoint = req.scope.get("path", "")
        if cmd_opts.api_log and endpoint.startswith("/sdapi"):
            log.warning("%s %s %s %s", res.status_code, req.method, endpoint, took)
        return res

    @app.middleware("http")
    async def exception_handling(request: Request, call_next: Callable) -> Any:
        try:
            return await call_next(request)
        except Exception as e:
            return error_response(e)

    @app.exception_handler(Exception)
    async def any_exception(request: Request, e: Exception) -> JSONResponse:
        return error_response(e)

    @app.exception_handler(HTTPException)
    async def http_exception(request: Request, e: HTTPException) -> JSONResponse:
        return error_response(e)
