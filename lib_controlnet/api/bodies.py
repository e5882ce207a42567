"""What a request body may hold, enforced before anything of it is parsed; and refusals."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Final

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from lib_controlnet.errors import ControlNetError
from lib_controlnet.limits import (
    MAX_BODY,
    MAX_DISCARDED,
    MAX_POSE_BODY,
    MAX_TURNS,
    MAX_VALUES,
    MEGABYTE,
)

log = logging.getLogger(__name__)

WITH_BODY: Final = ("POST", "PUT", "PATCH", "DELETE")

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


@contextmanager
def answer_errors(public: Callable[[str], str]) -> Iterator[None]:
    """What is wrong with the request becomes the answer.

    Args:
        public: makes a sentence one that clients may read.
    """
    try:
        yield
    except ControlNetError as error:
        log.warning("refused: %s", error.detail)
        raise HTTPException(error.status_code, public(error.detail)) from error


class BoundedRoute(APIRoute):
    """A route that refuses large bodies (413) and tells validation errors without the input.

    Some requests with a body are at work at a time; the others wait, and take no thread for that.
    """

    max_body: ClassVar[int] = MAX_BODY

    def get_route_handler(self) -> Handler:
        """The handler that FastAPI makes, behind our checks."""
        handle = super().get_route_handler()
        turns = asyncio.Semaphore(MAX_TURNS)

        async def in_turn(request: Request) -> Response:
            if request.method not in WITH_BODY:
                return await handle(request)
            request = _with_body(request, await read_body(request, self.max_body))
            async with turns:
                return await handle(request)

        async def limit_body(request: Request) -> Response:
            try:
                return await in_turn(request)
            except RequestValidationError as error:
                return JSONResponse({"detail": [_plain(item) for item in error.errors()]}, 422)
            except OverflowError as error:  # older pydantic, of whole numbers with 400 digits
                msg = "the request holds a number that is too large"
                raise HTTPException(422, msg) from error

        return limit_body


class PoseRoute(BoundedRoute):
    """A route for lists of numbers, which take far longer to check than pictures of their size."""

    max_body: ClassVar[int] = MAX_POSE_BODY


async def read_body(request: Request, limit: int) -> bytes:
    """Read a body of at most `limit` bytes.

    Raises:
        HTTPException: 413, it is larger; 422, it has more values than any honest request.
    """
    parts: list[bytes] = []
    size = 0
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limit + MAX_DISCARDED:
        raise _too_large(limit)
    async for part in request.stream():
        size += len(part)
        if size <= limit:
            parts.append(part)
        else:
            parts.clear()
        if size > limit + MAX_DISCARDED:
            break
    if size > limit:
        raise _too_large(limit)
    body = b"".join(parts)
    if sum(body.count(mark) for mark in (b",", b"[", b"{")) > MAX_VALUES:
        msg = f"the request holds more than {MAX_VALUES} values; send fewer"
        raise HTTPException(422, msg)
    return body


def _too_large(limit: int) -> HTTPException:
    return HTTPException(
        413,
        f"the request is larger than {limit // MEGABYTE} MB; send fewer or smaller pictures",
    )


def _with_body(request: Request, body: bytes) -> Request:
    """The request with a body that can be read once more."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(request.scope, receive)


def _plain(error: Any) -> dict[str, Any]:
    """Place, sentence and kind of a validation error.

    Newer generations of pydantic add the input, which may be megabytes, or numbers that JSON
    cannot hold.
    """
    message = str(error.get("msg", "")).encode("utf-8", "replace").decode("utf-8")
    place = [part if isinstance(part, int) else str(part)[:100] for part in error.get("loc", ())]
    return {"loc": place, "msg": message[:500], "type": str(error.get("type", ""))}
