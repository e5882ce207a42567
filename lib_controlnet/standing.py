"""Under which names our packages stand in this process; run by its file, before all else of ours.

`lib_controlnet` and `annotator` are top-level names that others own in some WebUIs: the ControlNet
that is built in there, its preprocessors. Such WebUIs put the folders of all extensions on
`sys.path` before any script runs, those of users first. So, whatever the order of that path:

- a top-level name that anybody else's folder has is theirs (`give_way`);
- ours are loaded from our folder (`stand`): `lib_controlnet` where the name is free, else not at
  all (`claim`); `annotator` under another name where its own is taken.

Nothing but the standard library is imported here, and nothing of ours.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
OTHERWISE: Final = {"annotator": "controlnet_annotator"}
"""What a package of ours is called where its name is taken."""


class GiveWay:
    """Finds the top-level names that our folder has in every other folder of the path.

    Attributes:
        controlnet_root: our folder; by this attribute a finder is known again.
        names: regular packages and modules in it. Folders without `__init__.py` shadow nothing.
    """

    def __init__(self) -> None:
        self.controlnet_root = ROOT
        packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
        self.names = frozenset(packages | {path.stem for path in ROOT.glob("*.py")})

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Another folder's module of one of our names; None leaves it to the next finder."""
        return find_other(name) if path is None and name in self.names else None


def is_own(folder: str) -> bool:
    """Whether an entry of the path is our folder."""
    try:
        return Path(folder or ".").resolve() == ROOT
    except (OSError, RuntimeError):  # a link in a circle
        return False


def find_other(name: str) -> ModuleSpec | None:
    """What a top-level name is without our folder."""
    return PathFinder.find_spec(name, [folder for folder in sys.path if not is_own(folder)])


def give_way() -> None:
    """Leave our names to others from now on, also to those whose folders come later."""
    if any(getattr(finder, "controlnet_root", None) == ROOT for finder in sys.meta_path):
        return
    place = next((i for i, finder in enumerate(sys.meta_path) if finder is PathFinder), 0)
    sys.meta_path.insert(place, GiveWay())


def claim() -> Path | None:
    """Load `lib_controlnet` from our folder, where its name is free.

    Returns:
        The folder of another package of that name; nothing of ours is loaded. None: ours is.
    """
    give_way()
    other = next(find_others("lib_controlnet"), None)
    if other is None:
        stand("lib_controlnet")
    return other


def stand(name: str) -> str:
    """Load one of our packages from our folder, once; its modules are found by its own path.

    Returns:
        The name that it has.
    """
    known_as = name if next(find_others(name), None) is None else OTHERWISE[name]
    if known_as not in sys.modules:
        folder = ROOT / name
        spec = importlib.util.spec_from_file_location(
            known_as, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[known_as] = module
        spec.loader.exec_module(module)
    return known_as


def find_others(name: str) -> Iterator[Path]:
    """Folders of a package of that name that is not ours: of the one in use, or to be found."""
    present = sys.modules.get(name)
    if present is None:
        found: object = getattr(find_other(name), "submodule_search_locations", None)
    else:
        found = getattr(present, "__path__", None)
    for folder in found if isinstance(found, Iterable) else ():
        if Path(folder).resolve() != ROOT / name:
            yield Path(folder)
