"""Where the session of a generation is kept: on the host's processing object."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from lib_controlnet.engine.session import ControlSession

SESSION_ATTRIBUTE: Final = "controlnet_session"
OWNER_ATTRIBUTE: Final = "controlnet_session_owner"


def session_of(p: Any) -> ControlSession | None:
    """The session of a processing object, or of the one that it is a copy of."""
    return getattr(p, SESSION_ATTRIBUTE, None)


def give_session(p: Any, session: ControlSession | None) -> None:
    """Make a session that of a processing object; None takes the present one away."""
    setattr(p, SESSION_ATTRIBUTE, session)
    setattr(p, OWNER_ATTRIBUTE, weakref.ref(p))


def end_session(p: Any) -> None:
    """Take the session away and end it, unless it belongs to an object that `p` is a copy of."""
    session, owner = session_of(p), getattr(p, OWNER_ATTRIBUTE, None)
    if session is not None and owner is not None and owner() is p:
        session.release()
    setattr(p, SESSION_ATTRIBUTE, None)


@contextmanager
def keep_error(session: ControlSession) -> Iterator[None]:
    """Keep an error that the host would swallow: the next U-Net call, or the end, raises it."""
    try:
        yield
    except Exception as error:  # the boundary to the host's callbacks
        session.fail(error)
