"""The adapter to the WebUI: answers what the core asks."""

from __future__ import annotations

import json
import logging
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from modules import devices, paths, shared

from lib_controlnet.engine.memory import Between
from lib_controlnet.engine.memory_plan import measure_reserve
from lib_controlnet.engine.unet import BaseUNet, choose_sample, describe_unet
from lib_controlnet.errors import HostError
from lib_controlnet.files.paths import parse_path
from lib_controlnet.host.folders import EXTENSION_ROOT, PRESETS, find_folders, find_presets
from lib_controlnet.host.members import find_model, member_of
from lib_controlnet.host.page import settings
from lib_controlnet.host.page.logs import say_once

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lib_controlnet.engine.residency import Residency
    from lib_controlnet.engine.session import ControlSession
    from lib_controlnet.engine.unet import UNetShape

log = logging.getLogger(__name__)

TITLES: Final = ("modelspec.title", "ss_output_name")
"""Where a checkpoint's metadata name it."""

LONGEST_TITLE: Final = 200


class WebUIHost:
    """Answers `ports.Host`; what differs between WebUIs is asked of a `members.Member`."""

    residency: Residency

    def __init__(self) -> None:
        self._seen: weakref.WeakKeyDictionary[nn.Module, tuple[UNetShape, tuple[str, ...]]]
        self._seen = weakref.WeakKeyDictionary()

    def base(self) -> BaseUNet | None:
        """The loaded checkpoint's U-Net, or None while no checkpoint is loaded.

        Raises:
            HostError: the checkpoint's network cannot take controls (SD3), or a compiled U-Net
                (TensorRT) that never calls the blocks has been selected in the settings.
        """
        model = find_model()
        unet = None if model is None else member_of(model).find_unet(model)
        if unet is None:
            return None
        if unet not in self._seen:  # its many tensors are gone through once
            self._seen[unet] = describe_unet(unet), choose_sample(unet)
        shape, sample = self._seen[unet]
        info = getattr(model, "sd_checkpoint_info", None)
        title = getattr(info, "title", None) or "the loaded checkpoint"
        origin = f"{getattr(info, 'filename', title)}|{id(unet)}"
        originals = member_of(model).find_originals(model)
        return BaseUNet(unet, shape, str(title), origin, _description(info), originals, sample)

    def require_base(self) -> BaseUNet:
        """The loaded checkpoint's U-Net.

        Raises:
            HostError: no checkpoint is loaded, or its network cannot take controls.
        """
        base = self.base()
        if base is None:
            msg = "no checkpoint is loaded, controls cannot act"
            raise HostError(msg)
        return base

    @property
    def device(self) -> torch.device:
        """Where control networks compute; `--use-cpu controlnet` keeps them on the CPU."""
        return torch.device(devices.get_device_for("controlnet"))

    @property
    def between(self) -> Between:
        """When control networks leave that device: as the host's own parts do."""
        if self.flag("lowvram"):
            return Between.EVALUATION
        is_sdxl = hasattr(find_model(), "conditioner")  # the host tells it in the same way
        is_medium = self.flag("medvram") or (is_sdxl and self.flag("medvram_sdxl"))
        return Between.PASS if is_medium else Between.NEVER

    @property
    def network_dtype(self) -> torch.dtype:
        """The U-Net's precision; float32 with `--no-half-controlnet`, never an 8-bit type."""
        if self.flag("no_half_controlnet"):
            return torch.float32
        model = find_model()
        dtype = devices.dtype if model is None else member_of(model).find_dtype(model)
        if dtype not in (torch.float32, torch.bfloat16):
            # Half convolutions are slow on a CPU, or missing.
            return torch.float32 if self.device.type == "cpu" else torch.float16
        return dtype

    def measure_coming(self, device: torch.device) -> int:
        """Bytes that still come to a device for the U-Net, see `ports.Host`."""
        model, between = find_model(), self.between
        if model is None or between is Between.EVALUATION:
            return 0
        return member_of(model).measure_coming(model, device, between is Between.PASS)

    def option(self, key: str) -> Any:
        """A setting's present value, of the type that it has to have."""
        return settings.option(key)

    def flag(self, name: str) -> object:
        """A command line flag's value; None where it is not given, or the host has none such."""
        return getattr(shared.cmd_opts, name, None)

    @property
    def alphas(self) -> Tensor:
        """Cumulative product of alphas of the checkpoint that is loaded now, (1000,)."""
        alphas = self.find_alphas()
        if alphas is None:
            msg = "the loaded checkpoint tells no noise levels, so ControlNet cannot hold pictures"
            raise HostError(msg)
        return alphas

    @staticmethod
    def find_alphas() -> Tensor | None:
        """See `alphas`; None where the checkpoint tells none."""
        model = find_model()
        return member_of(model).find_alphas(model)

    def vae_encode(self, image: Tensor) -> Tensor:
        """Encode (b, 3, H, W) pixels in [0, 1] to scaled latents, without random numbers."""
        model = shared.sd_model
        pixels = image.to(devices.device, devices.dtype_vae) * 2.0 - 1.0
        return member_of(model).encode(model, pixels)

    def reserve(self, session: ControlSession) -> None:
        """Have the host keep memory free for the controls of the pass that is about to begin."""
        info = session.info
        assert info is not None

        def measure() -> int:
            return measure_reserve(session.active, info, self, session.between)

        model = find_model()
        member_of(model).reserve(model, measure)

    def model_folders(self) -> list[Path]:
        """Folders scanned for control models; those that do not exist are left out."""
        typed = {
            "the setting control_net_models_path": self.option("control_net_models_path"),
            "--controlnet-dir": self.flag("controlnet_dir"),
        }
        models = Path(shared.models_path)
        found, notes = find_folders(models, [EXTENSION_ROOT / "models"], typed)
        for note in notes:
            say_once(note)
        return found

    def presets_folder(self) -> Path:
        """Where presets of units are kept."""
        typed = parse_path(self.option("controlnet_presets_folder"))
        return Path(paths.data_path, typed or PRESETS)

    @staticmethod
    def old_presets_folders() -> list[Path]:
        """Where older ControlNets kept theirs: in their own folders."""
        return find_presets(
            getattr(paths, name, None) for name in ("extensions_dir", "extensions_builtin_dir")
        )

    @staticmethod
    def is_shared() -> bool:
        """Whether others reach this WebUI than who has started it."""
        return settings.is_shared()

    @staticmethod
    def cache_folder() -> Path:
        """The host's folder for what can be made again."""
        return Path(paths.data_path) / "cache"

    @staticmethod
    def read_saved_default(key: str) -> str | None:
        """A text in the user's file of the page's defaults, such as `txt2img/Model/value`.

        The host passes over one that is not offered without a word.
        """
        try:
            with Path(shared.cmd_opts.ui_config_file).open(encoding="utf-8") as file:
                value = json.load(file).get(key)
        except (OSError, ValueError, AttributeError, RecursionError):
            return None  # the host itself complains about a file that it cannot read
        return value if isinstance(value, str) else None

    def is_interrupted(self) -> bool:
        """Whether the user wants no picture any more.

        Skip is not asked for here: it is over when the next batch begins.
        """
        return bool(shared.state.interrupted or shared.state.stopping_generation)

    def report(self, text: str | None) -> None:
        """Show one line beside the progress bar; None takes it away."""
        shared.state.textinfo = text

    @staticmethod
    def free_memory() -> None:
        """Return cached device memory to the driver."""
        devices.torch_gc()


def _description(info: Any) -> str:
    """What a checkpoint's file calls itself; files hold anything there."""
    metadata = getattr(info, "metadata", None)
    found = [metadata.get(key) for key in TITLES] if isinstance(metadata, dict) else []
    return " ".join(text[:LONGEST_TITLE] for text in found if isinstance(text, str))
