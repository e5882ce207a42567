"""Bodies of the HTTP interface.

Requests are built from the constructors of the processing classes and the settings model from the
settings known when this module is first imported, so the names and defaults are theirs.
"""

from __future__ import annotations

import inspect
from typing import Any

from modules.cmd_args import parser
from modules.processing import StableDiffusionProcessingImg2Img, StableDiffusionProcessingTxt2Img
from modules.shared import opts
from pydantic import BaseModel, Field, create_model

# Not settable over HTTP: decided by the host itself.
API_NOT_ALLOWED = {
    "self", "sd_model", "outpath_samples", "outpath_grids", "sampler_index",
    "extra_generation_params", "overlay_images", "do_not_reload_embeddings",
    "seed_enable_extras", "prompt_for_display", "sampler_noise_scheduler_override",
    "ddim_discretize", "scripts", "scripts_value", "script_args", "script_args_value", "mask",
    "init_images", "is_api", "user",
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
            if name in API_NOT_ALLOWED or parameter.kind not in (
                parameter.POSITIONAL_OR_KEYWORD,
                parameter.KEYWORD_ONLY,
            ):
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
    "tiling": bool | None,
    "restore_faces": bool | None,
    "do_not_save_samples": bool | None,
    "do_not_save_grid": bool | None,
    "comments": dict | None,
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


class TextToImageResponse(_Body):
    """Answer of txt2img: pictures in base64, the request, and a JSON text about the run."""

    images: list | None = Field(default=None, title="Image")
    parameters: dict
    info: str


class ImageToImageResponse(TextToImageResponse):
    """Answer of img2img."""


class PNGInfoRequest(_Body):
    """A picture in base64."""

    image: str


class PNGInfoResponse(_Body):
    """Infotext, other metadata and the parsed infotext."""

    info: str
    items: dict
    parameters: dict


class ProgressResponse(_Body):
    """How far the running job is."""

    progress: float
    eta_relative: float
    state: dict
    current_image: str | None = None
    textinfo: str | None = None


class SamplerItem(_Body):
    """A sampler."""

    name: str
    aliases: list[str]
    options: dict[str, Any]


class SchedulerItem(_Body):
    """A schedule."""

    name: str
    label: str
    aliases: list[str] | None = None
    default_rho: float | None = None
    need_inner_model: bool | None = None


class UpscalerItem(_Body):
    """A picture upscaler."""

    name: str
    model_name: str | None = None
    model_path: str | None = None
    model_url: str | None = None
    scale: float | None = None


class LatentUpscalerModeItem(_Body):
    """A latent upscaler."""

    name: str


class SDModelItem(_Body):
    """A checkpoint."""

    title: str
    model_name: str
    hash: str | None = None
    sha256: str | None = None
    filename: str
    config: str | None = None


class SDVaeItem(_Body):
    """A VAE file."""

    model_name: str
    filename: str


class ScriptsList(_Body):
    """Names of the scripts of both tabs."""

    txt2img: list
    img2img: list


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


class ExtensionItem(_Body):
    """An extension."""

    name: str
    remote: str | None = None
    branch: str | None = None
    commit_hash: str | None = None
    version: str | None = None
    commit_date: Any = None
    enabled: bool


class MemoryResponse(_Body):
    """Memory in bytes."""

    ram: dict
    cuda: dict


def _options_model() -> type[BaseModel]:
    fields: dict[str, tuple[Any, Any]] = {}
    for key, info in opts.data_labels.items():
        if info.do_not_save:
            continue
        kind = opts.typemap.get(type(info.default), type(info.default)) if info.default else Any
        fields[key] = (kind | None, Field(default=info.default, description=info.label))
    return create_model("Options", **fields)


def _flags_model() -> type[BaseModel]:
    fields = {
        action.dest: (Any, Field(default=None, description=action.help))
        for action in parser._actions
        if action.dest != "help"
    }
    return create_model("Flags", **fields)


OptionsModel = _options_model()
FlagsModel = _flags_model()
