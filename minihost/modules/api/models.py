"""Bodies of the HTTP interface.

Requests are built from the constructors of the processing classes, so the names and defaults are
theirs.
"""

from __future__ import annotations

import inspect
from typing import Any

from modules.processing import StableDiffusionProcessingImg2Img, StableDiffusionProcessingTxt2Img
from pydantic import BaseModel, create_model

# Not settable over HTTP: decided by the host itself.
API_NOT_ALLOWED = {
    "self", "sd_model", "outpath_samples", "outpath_grids", "extra_generation_params",
    "overlay_images", "mask", "init_images",
}  # fmt: skip

_COMMON: dict[str, tuple[Any, Any]] = {
    "sampler_index": (str | None, "Euler"),
    "script_name": (str | None, None),
    "script_args": (list | None, []),
    "send_images": (bool | None, True),
    "save_images": (bool | None, False),
    "alwayson_scripts": (dict | None, {}),
    "force_task_id": (str | None, None),
    "infotext": (str | None, None),
}


def _fields_of(processing: type) -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}
    for parent in reversed(processing.__mro__[:-1]):
        for name, parameter in inspect.signature(parent.__init__).parameters.items():
            if name in API_NOT_ALLOWED:
                continue
            default = parameter.default
            # A default made by a factory is a sentinel in the signature.
            if default is parameter.empty or not isinstance(
                default, (str, int, float, bool, list, dict, type(None))
            ):
                default = None
            found[name] = (_TYPES.get(name, _type_of(default)), default)
    return found


def _type_of(default: Any) -> Any:
    if default is None:
        return Any
    return type(default) | None


_TYPES: dict[str, Any] = {
    "prompt": str | None,
    "negative_prompt": str | None,
    "styles": list | None,
    "sampler_name": str | None,
    "scheduler": str | None,
    "seed": int | None,
    "subseed": int | None,
    "override_settings": dict | None,
    "cfg_scale": float | None,
    "denoising_strength": float | None,
    "eta": float | None,
    "do_not_save_samples": bool | None,
    "do_not_save_grid": bool | None,
}


def _request(name: str, processing: type, extra: dict[str, tuple[Any, Any]]) -> type[BaseModel]:
    return create_model(name, **{**_fields_of(processing), **_COMMON, **extra})


StableDiffusionTxt2ImgProcessingAPI = _request(
    "StableDiffusionProcessingTxt2Img", StableDiffusionProcessingTxt2Img, {}
)
StableDiffusionImg2ImgProcessingAPI = _request(
    "StableDiffusionProcessingImg2Img",
    StableDiffusionProcessingImg2Img,
    {
        "init_images": (list | None, None),
        "denoising_strength": (float | None, 0.75),
        "mask": (str | None, None),
        "include_init_images": (bool | None, False),
    },
)


class _Body(BaseModel):
    class Config:
        protected_namespaces = ()


class ScriptArg(_Body):
    """One argument of a script."""

    label: str | None = None
    value: Any = None
    minimum: Any = None
    maximum: Any = None
    step: Any = None
    choices: list[str] | None = None


class ScriptInfo(_Body):
    """A script and its arguments."""

    name: str | None = None
    is_alwayson: bool | None = None
    is_img2img: bool | None = None
    args: list[ScriptArg]
