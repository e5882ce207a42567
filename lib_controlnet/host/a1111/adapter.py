"""The adapter to A1111 v1.10: answers what the core asks, and tells a session of each step."""

from __future__ import annotations

import json
import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from modules import devices, paths, sd_models, shared

from lib_controlnet.engine.effects.x0 import adjust_noise
from lib_controlnet.engine.memory import Between
from lib_controlnet.engine.step import NoisyLatent
from lib_controlnet.engine.unet import BaseUNet, describe_unet
from lib_controlnet.errors import HostError
from lib_controlnet.host.a1111 import vae
from lib_controlnet.host.a1111.rows import ROWS
from lib_controlnet.host.a1111.schedule import from_denoiser
from lib_controlnet.host.folders import EXTENSION_ROOT, find_folders
from lib_controlnet.host.page import settings
from lib_controlnet.host.page.logs import say_once

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lib_controlnet.engine.residency import Residency
    from lib_controlnet.engine.session import ControlSession
    from lib_controlnet.engine.unet import UNetShape

log = logging.getLogger(__name__)

SESSION_ATTRIBUTE: Final = "controlnet_session"
OWNER_ATTRIBUTE: Final = "controlnet_session_owner"

TITLES: Final = ("modelspec.title", "ss_output_name")
"""Where a checkpoint's metadata name it."""

LONGEST_TITLE: Final = 200


class A1111Host:
    """Answers `ports.Host` for A1111."""

    residency: Residency

    def __init__(self) -> None:
        self._shapes: weakref.WeakKeyDictionary[nn.Module, UNetShape] = weakref.WeakKeyDictionary()

    def base(self) -> BaseUNet | None:
        """The loaded checkpoint's U-Net, or None while no checkpoint is loaded.

        Raises:
            HostError: the checkpoint's network cannot take controls (SD3), or a compiled U-Net
                (TensorRT) that never calls the blocks has been selected in the settings.
        """
        model = find_model()
        if model is None:
            return None
        from modules import sd_unet

        if getattr(sd_unet, "current_unet", None) is not None:
            msg = (
                f"the U-Net option {sd_unet.current_unet.__class__.__name__!r} bypasses the blocks "
                'that controls act on: choose "None" under Settings > Stable Diffusion > SD Unet'
            )
            raise HostError(msg)
        unet = model.model.diffusion_model
        if unet not in self._shapes:  # its many tensors are gone through once
            self._shapes[unet] = describe_unet(unet)
        info = getattr(model, "sd_checkpoint_info", None)
        title = getattr(info, "title", None) or "the loaded checkpoint"
        identity = f"{getattr(info, 'filename', title)}|{id(unet)}"
        return BaseUNet(unet, self._shapes[unet], str(title), identity, _description(info))

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
        dtype = devices.dtype if model is None else _parameter_dtype(model)
        if dtype not in (torch.float32, torch.bfloat16):
            # Half convolutions are slow on a CPU, or missing.
            return torch.float32 if self.device.type == "cpu" else torch.float16
        return dtype

    def measure_coming(self, device: torch.device) -> int:
        """Bytes that still come to a device for the U-Net, see `ports.Host`.

        With `--medvram` one part of the model takes the place of another, with `--lowvram` the
        U-Net comes in pieces, which are small.
        """
        model, between = find_model(), self.between
        if model is None or between is Between.EVALUATION:
            return 0
        unet = {id(one) for one in model.model.diffusion_model.parameters()}
        coming = 0
        for one in model.parameters():
            lies, size = one.device.type == device.type, one.nelement() * one.element_size()
            if id(one) in unet:
                coming += 0 if lies else size
            elif lies and between is Between.PASS:
                coming -= size
        return coming

    def option(self, key: str) -> Any:
        """A setting's present value, of the type that it has to have."""
        return settings.option(key)

    def flag(self, name: str) -> object:
        """A command line flag's value; None where it is not given, or the host has none such."""
        return getattr(shared.cmd_opts, name, None)

    @property
    def alphas(self) -> Tensor:
        """Cumulative product of alphas of the checkpoint that is loaded now, (1000,)."""
        return find_model().alphas_cumprod

    def vae_encode(self, image: Tensor) -> Tensor:
        """Encode (b, 3, H, W) pixels in [0, 1] to scaled latents, without random numbers."""
        pixels = image.to(devices.device, devices.dtype_vae) * 2.0 - 1.0
        return vae.encode(shared.sd_model, pixels, devices.autocast())

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


def find_model() -> Any:
    """The checkpoint that is in memory, without loading one; None without one."""
    return getattr(sd_models.model_data, "sd_model", None)


def _parameter_dtype(model: Any) -> torch.dtype:
    return next(model.model.diffusion_model.parameters()).dtype


def _description(info: Any) -> str:
    """What a checkpoint's file calls itself; files hold anything there."""
    metadata = getattr(info, "metadata", None)
    found = [metadata.get(key) for key in TITLES] if isinstance(metadata, dict) else []
    return " ".join(text[:LONGEST_TITLE] for text in found if isinstance(text, str))


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


def on_cfg_denoiser(session: ControlSession, params: Any) -> None:
    """Once per evaluation, before the host splits the batch into U-Net calls."""
    denoiser: Any = getattr(params, "denoiser", None)
    if session_of(getattr(denoiser, "p", None)) is not session:
        session.cursor.layout = None  # a generation without scripts, in the middle of ours
        return
    images = params.text_uncond.shape[0]
    layout = ROWS.read(params, images > 1 and session.needs_texts)
    schedule = session.schedule or from_denoiser(denoiser)
    # Read only where it counts: the tensor is on the device, and reading it waits for the device.
    sigma = 0.0 if schedule.sigmas is None else float(params.sigma.max())
    progress = schedule.progress(denoiser.step, sigma)
    model = find_model()
    unet = None if model is None else model.model.diffusion_model
    noisy = None
    if getattr(denoiser, "mask_before_denoising", False):  # samplers that predict epsilon
        noisy = NoisyLatent(params.x[-images:], params.sigma[-images:])
    session.begin_evaluation(layout, progress, unet, noisy, schedule)
    if session.effects("condition"):
        params.image_cond = session.condition(params.image_cond, layout.rows)


def on_cfg_after_cfg(session: ControlSession, params: Any) -> None:
    """Once per evaluation, after guidance: hold the prediction where a unit asks for it."""
    if session.effects("after_guidance"):
        params.x = _adjust(params.x, session.noisy, session.adjust_x0, session)


def on_cfg_denoised(session: ControlSession, params: Any) -> None:
    """Once per evaluation, before guidance: every row's prediction, changed in place."""
    layout = session.cursor.layout
    if not session.effects("before_guidance") or layout is None:
        return
    rows, noisy = layout.rows, session.noisy
    if len(rows) != len(params.x):
        msg = (
            f"ControlNet: {len(rows)} rows were announced and {len(params.x)} were denoised; "
            "another extension has changed the batch, so colours cannot be held"
        )
        raise HostError(msg)
    if noisy is not None:
        images = [row.image for row in rows]
        noisy = NoisyLatent(noisy.x[images], noisy.timesteps[images])
    params.x.copy_(_adjust(params.x, noisy, lambda x0: session.adjust_rows(x0, rows), session))


def _adjust(
    prediction: Tensor,
    noisy: NoisyLatent | None,
    adjust: Callable[[Tensor], Tensor],
    session: ControlSession,
) -> Tensor:
    """A prediction whose clean latent was adjusted; it is noise where `noisy` is given."""
    if noisy is None:
        return adjust(prediction)
    return adjust_noise(prediction, noisy, session.host.alphas, adjust)


def lay_starts(session: ControlSession, noise: Tensor) -> None:
    """Put the pictures that sampling shall start from under its noise, (b, c, h, w), in place."""
    for effect in session.effects("under_noise"):
        effect.under_noise(noise, float(session.host.alphas[-1]))
