"""Other extensions that would keep this one from working are named, not guessed at."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Final

from lib_controlnet.errors import HostError

ROOT: Final = Path(__file__).resolve().parents[1]


def check_package(package: ModuleType) -> None:
    """Make sure that a package of this extension is really ours.

    The host lets the first extension that imports a top-level name have it for the whole
    process, and older extensions ship packages of the same name.

    Raises:
        HostError: the package comes from elsewhere; the message names the place.
    """
    places = [Path(place).resolve() for place in package.__path__]
    if ROOT / package.__name__ not in places:
        msg = (
            f"the Python package {package.__name__!r} was already loaded from {places[0]}: "
            "another extension ships it too. Disable that extension and restart the WebUI"
        )
        raise HostError(msg)
