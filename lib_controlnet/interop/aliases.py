"""The import paths under which other extensions look for ControlNet, registered in one place.

A WebUI has an extension's folder on `sys.path` only while it loads scripts, but neighbours import
at any time. So every path they try is put into `sys.modules` when our script is loaded. A path
that stands for the Python API gets the very module of the API: its classes are the same objects
by every route. Paths that would tell a neighbour that it runs on Forge are not among them.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterable, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from lib_controlnet import enums, standing
from lib_controlnet.detect import preprocess
from lib_controlnet.interop import api as python_api
from lib_controlnet.interop import model_lists, names, plugins
from lib_controlnet.interop import values as published

log = logging.getLogger(__name__)

FOLDER: Final = "extensions.sd-webui-controlnet"
"""What most neighbours have written down; others build it of the folder they find."""

MARK: Final = "__controlnet_alias__"


def register(roots: Iterable[Path], script: Mapping[str, Any], hook: Mapping[str, Any]) -> None:
    """Make every path importable. Doing it again replaces what was registered before.

    Args:
        roots: paths of the extension's folder, whatever they are called; others are passed over.
        script: names that `scripts.controlnet` holds.
        hook: names that `scripts.hook` holds beside the types of models.
    """
    modules = _modules(script, hook)
    for name, module in modules.items():
        _put(name, module)
    own = [root for root in roots if (root / "scripts" / "external_code.py").is_file()]
    for prefix in {FOLDER, *(f"{root.parent.name}.{root.name}" for root in own)}:
        for name, module in modules.items():
            if name.startswith("scripts."):
                _put(f"{prefix}.{name}", module)
        _put(f"{prefix}.annotator.util", modules["annotator.util"])


def unregister() -> None:
    """Take all paths away; whoever imported them keeps what it has."""
    for name, module in list(sys.modules.items()):
        if _is_ours(module) and name != python_api.__name__:
            del sys.modules[name]
            parent, _, child = name.rpartition(".")
            if vars(sys.modules.get(parent, object)).get(child) is module:
                delattr(sys.modules[parent], child)


def _modules(script: Mapping[str, Any], hook: Mapping[str, Any]) -> dict[str, ModuleType]:
    """Every module by the path under which it was once published."""
    from lib_controlnet.nets import cldm

    state = _module("scripts.global_state", vars(model_lists), lazy=model_lists.lookup)
    python_api.global_state = state  # type: ignore[attr-defined]
    unit = {"UiControlNetUnit": python_api.ControlNetUnit}
    choices = {
        name: value
        for name, value in (vars(enums) | vars(published)).items()
        if isinstance(value, type) and issubclass(value, enums.Enum)
    }
    models = {"ControlModelType": published.ControlModelType}
    preprocessors = {
        name: getattr(plugins, name) for name in ("Preprocessor", "PreprocessorParameter")
    }
    pictures = {
        "resize_image_with_pad": names.resize_image_with_pad,
        "visualize_inpaint_mask": python_api.visualize_inpaint_mask,
    }
    holding: dict[str, Mapping[str, Any]] = {
        "scripts.batch_hijack": {"InputMode": enums.InputMode},
        "scripts.cldm": {"ControlNet": cldm.ControlNet},
        "scripts.controlmodel_ipadapter": {"ImageEmbed": published.ImageEmbed},
        "scripts.controlnet": script,
        "scripts.controlnet_ui.controlnet_ui_group": vars(names) | unit,
        "scripts.enums": choices,
        "scripts.hook": models | dict(hook),
        "scripts.ipadapter.ipadapter_model": {"ImageEmbed": published.ImageEmbed},
        "scripts.logging": {"logger": python_api.logger},
        "scripts.supported_preprocessor": preprocessors,
        "scripts.utils": pictures,
        "annotator.util": {"HWC3": names.HWC3},
    }
    made = {name: _module(name, holds) for name, holds in holding.items()}
    packages = ("internal_controlnet", "scripts.controlnet_ui", "scripts.ipadapter")
    return {
        **{name: _module(name, {}, is_package=True) for name in packages},
        **made,
        "scripts.global_state": state,
        "scripts.external_code": python_api,
        "internal_controlnet.external_code": python_api,
    }


def _module(
    name: str, holds: Mapping[str, Any], lazy: Any = None, is_package: bool = False
) -> ModuleType:
    """A module without a file: public names, and `lazy(name)` for those that change."""
    module = ModuleType(name, f"Published path of sd-webui-controlnet: {name}.")
    module.__spec__ = ModuleSpec(name, loader=None, origin=__file__, is_package=is_package)
    if is_package:
        module.__path__ = []
    vars(module).update({key: value for key, value in holds.items() if not key.startswith("_")})
    if lazy is not None:
        vars(module)["__getattr__"] = lazy
    setattr(module, MARK, True)
    return module


def _is_ours(module: object) -> bool:
    return module is python_api or bool(getattr(module, "__dict__", {}).get(MARK, False))


def _put(name: str, module: ModuleType) -> None:
    """Enter one path, unless a module of another extension has it."""
    parent, _, child = name.rpartition(".")
    package = _package(parent)
    if parent == "annotator" and package is None:
        return
    present = sys.modules.get(name)
    if (present is not None and not _is_ours(present)) or _is_file_of_others(name):
        log.info("%s is another extension's; ControlNet's is not put there", name)
        return
    sys.modules[name] = module
    if package is not None and child not in vars(package):
        setattr(package, child, module)


def _is_file_of_others(name: str) -> bool:
    """Whether a script of that name can be imported from another folder of the path.

    Where all extensions have theirs there at once, they import each other's and their own so.
    """
    folders = [Path(entry, *name.split(".")) for entry in sys.path if not standing.is_own(entry)]
    return name.startswith("scripts.") and any(
        folder.with_suffix(".py").is_file() or (folder / "__init__.py").is_file()
        for folder in folders
    )


def _package(name: str) -> ModuleType | None:
    """The package that a path lies in, if there is one that other code may ask."""
    if name == "annotator":
        ours = preprocess.declarations.__name__ == "annotator.registry"
        return sys.modules.get(name) if ours else None
    if name == "scripts":  # a namespace of all extensions that are loaded
        try:
            return importlib.import_module(name)
        except ImportError:
            return None
    return sys.modules.get(name)
