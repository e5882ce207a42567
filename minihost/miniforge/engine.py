"""The loaded checkpoint: an object of parts, no module."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from minildm.unet import call_layers
from modules import devices, script_callbacks, sd_models
from modules.latent_model import INPAINT_CHANNELS, LatentDiffusion
from torch import Tensor

from miniforge import memory, shapes
from miniforge.layers import own_linear_layers
from miniforge.patcher import ForgeObjects, KModel, ModelPatcher, Prediction, UnetPatcher

FLAGS = ("is_sd1", "is_sd2", "is_sdxl", "is_sd3", "is_sdxl_inpaint", "is_ssd")


class FakeInitialModel:
    """What stands for a checkpoint until the first one is loaded."""

    cond_stage_model = None
    sd_checkpoint_info = None


class Engine:
    """A checkpoint ready to sample.

    Args:
        core: the parts, as A1111 holds them.
    """

    def __init__(self, core: LatentDiffusion) -> None:
        self._core = core
        shape = shapes.current()
        unet = core.model.diffusion_model
        if shape.owns_layers:
            own_linear_layers(unet)
        if shape.walks_layers:
            unet.call_block = call_layers
        model = KModel(
            unet,
            Prediction(core.alphas_cumprod, core.parameterization == "v"),
            core.scale_factor,
            shape,
        )
        vae = core.first_stage_model
        if not shape.keeps_model:
            vae.process_in = lambda latent: latent * core.scale_factor
        self.forge_objects = ForgeObjects(
            UnetPatcher(model),
            SimpleNamespace(cond_stage_model=core.cond_stage_model),
            SimpleNamespace(
                first_stage_model=vae,
                patcher=ModelPatcher(vae),
                device=devices.device,
                vae_dtype=devices.dtype_vae,
            ),
        )
        self.forge_objects_original = self.forge_objects.shallow_copy()
        self.forge_objects_after_applying_lora = self.forge_objects.shallow_copy()
        self.is_inpaint = unet.in_channels == INPAINT_CHANNELS
        self.cond_stage_key = "txt"
        for flag in FLAGS:
            setattr(self, flag, getattr(core, flag))
        if shape.keeps_model:
            self.model = core.model

    @property
    def first_stage_model_dtype(self) -> Any:
        """Type of the VAE's weights."""
        return self._core.first_stage_model_dtype

    def get_learned_conditioning(self, prompts: Sequence[str]) -> Any:
        """Conditions of prompts."""
        return self._core.get_learned_conditioning(prompts)

    def encode_first_stage(self, x: Tensor) -> Tensor:
        """A scaled latent of pictures x (b, 3, H, W) in [-1, 1], drawn by the global generator."""
        memory.load_model_gpu(self.forge_objects.vae.patcher)
        return self._core.get_first_stage_encoding(self._core.encode_first_stage(x))

    def get_first_stage_encoding(self, x: Tensor) -> Tensor:
        """The argument: encoding has drawn and scaled it."""
        return x

    def decode_first_stage(self, x: Tensor) -> Tensor:
        """Pictures (b, 3, 8h, 8w), about [-1, 1], of scaled latents x (b, 4, h, w)."""
        memory.load_model_gpu(self.forge_objects.vae.patcher)
        return self._core.decode_first_stage(x)

    def to(self, device: object) -> Engine:
        """Move all parts."""
        self._core.to(device)
        return self


def load_model(checkpoint_info: sd_models.CheckpointInfo | None = None) -> Engine:
    """Load a checkpoint (that of the settings when None); its U-Net is always another one."""
    info = checkpoint_info or sd_models.select_checkpoint()
    info.calculate_shorthash()
    core = sd_models.make_model(info)
    memory.unload_all_models()
    sd_models.place(core)
    core.eval().requires_grad_(False)
    core.cond_stage_model_empty_prompt = sd_models.get_empty_cond(core)
    engine = Engine(core)
    sd_models.describe(engine, info)
    sd_models.model_data.set_sd_model(engine)
    sd_models.model_data.was_loaded_at_least_once = True
    script_callbacks.model_loaded_callback(engine)
    return engine


def reset_patches(model: Engine, has_loras: bool) -> None:
    """Forget what extensions have set on the patchers; LoRA that is applied stays."""
    base = model.forge_objects_after_applying_lora if has_loras else model.forge_objects_original
    model.forge_objects = base.shallow_copy()
