"""Who may use the routes: the host's API users, or whoever is logged in to its page.

With `--api-auth` a request needs one of its passwords, as the host's own routes do, or the
cookie of a page login. With `--gradio-auth` alone the routes are as open as the host's own API:
open where `--api` serves that to everybody, for logged-in users where there is no `--api`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.security import HTTPBasic, HTTPBasicCredentials

_COOKIES: Final = ("access-token", "access-token-unsecure")
"""Gradio's login, over HTTPS and over HTTP. From gradio 4 on each application appends its own
`cookie_id`, so that two at one address do not undo each other's logins."""


def guards(app: FastAPI, users: Mapping[str, str], serves_api: bool) -> list[Any]:
    """Dependencies of every route that let in whom the host lets in.

    Args:
        app: the application; gradio's knows who is logged in.
        users: user -> password of the host's API; empty if it is open.
        serves_api: whether the host serves its own API.
    """
    has_login = getattr(app, "auth", None) is not None
    if not users and (serves_api or not has_login):
        return []

    def check(
        request: Request,
        sent: HTTPBasicCredentials | None = Depends(HTTPBasic(auto_error=False)),  # noqa: B008
    ) -> None:
        if not (_knows(users, sent) or (has_login and _is_logged_in(app, request))):
            raise HTTPException(
                401, "Incorrect username or password", headers={"WWW-Authenticate": "Basic"}
            )

    return [Depends(check)]


def _knows(users: Mapping[str, str], sent: HTTPBasicCredentials | None) -> bool:
    if sent is None or sent.username not in users:
        return False
    return secrets.compare_digest(users[sent.username].encode(), sent.password.encode())


def _is_logged_in(app: Any, request: Request) -> bool:
    tokens = getattr(app, "tokens", None) or {}
    own = getattr(app, "cookie_id", "")
    names = [f"{name}-{own}" if own else name for name in _COOKIES]
    return any(request.cookies.get(name) in tokens for name in names)
