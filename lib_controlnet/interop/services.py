"""What the running extension knows and the Python API passes on; the script hands it over."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from lib_controlnet.errors import HostError

if TYPE_CHECKING:
    from lib_controlnet.files.catalog import Catalog


class Services(Protocol):
    """The part of the extension's shared objects that other extensions may ask for."""

    catalog: Catalog

    def unit_count(self) -> int:
        """Slots in the panel and in the API."""
        ...

    def refresh_models(self) -> list[str]:
        """Scan the model folders again and return the names."""
        ...


_PROVIDERS: Final[list[Callable[[], Services]]] = []
"""At most one: how the script of the running WebUI finds its shared objects."""


def provide(find: Callable[[], Services]) -> None:
    """The script is loaded: `find` gives its shared objects from now on."""
    _PROVIDERS[:] = [find]


def services() -> Services:
    """The extension's shared objects.

    Raises:
        HostError: the extension's script has not been loaded (yet).
    """
    if not _PROVIDERS:
        msg = "ControlNet is not loaded yet; ask again after the WebUI has started"
        raise HostError(msg)
    return _PROVIDERS[0]()
