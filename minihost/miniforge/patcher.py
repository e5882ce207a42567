"""The U-Net behind a patcher: what stands between a sampler and the network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from modules import devices
from torch import Tensor, nn

from miniforge.shapes import Shape


class Prediction:
    """What a checkpoint predicts, in noise levels.

    Args:
        alphas: cumulative product of alphas, (timesteps,).
        is_v: it predicts v, else the noise.
    """

    def __init__(self, alphas: Tensor, is_v: bool) -> None:
        self.alphas_cumprod = alphas
        self.sigmas = ((1 - alphas) / alphas) ** 0.5
        self.log_sigmas = self.sigmas.log()
        self.prediction_type = "v_prediction" if is_v else "epsilon"

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        """The latent `noise` as the network reads it."""
        return noise / (_wide(sigma) ** 2 + 1.0) ** 0.5

    def timestep(self, sigma: Tensor) -> Tensor:
        """The nearest whole timesteps."""
        distance = sigma.log() - self.log_sigmas.to(sigma.device)[:, None]
        return distance.abs().argmin(dim=0).view(sigma.shape)

    def calculate_denoised(
        self, sigma: Tensor, model_output: Tensor, model_input: Tensor
    ) -> Tensor:
        """The clean latent."""
        sigma = _wide(sigma)
        if self.prediction_type == "epsilon":
            return model_input - model_output * sigma
        share = sigma**2 + 1.0
        return model_input / share - model_output * sigma / share**0.5


def _wide(sigma: Tensor) -> Tensor:
    return sigma[:, None, None, None]


class KModel(nn.Module):
    """The network and what it predicts.

    Args:
        unet: the network.
        prediction: what it predicts.
        scale: of latents.
        shape: the member's; it decides under which names there is what.
    """

    def __init__(self, unet: nn.Module, prediction: Prediction, scale: float, shape: Shape) -> None:
        super().__init__()
        self.diffusion_model = unet
        self.prediction = prediction
        dtype = devices.dtype_unet
        if shape.keeps_model:
            self.model_sampling = SimpleNamespace(
                sigmas=prediction.sigmas,
                log_sigmas=prediction.log_sigmas,
                calculate_input=prediction.calculate_input,
                timestep=prediction.timestep,
            )
            self.manual_cast_dtype = None
            self.get_dtype = lambda: dtype
            latents = SimpleNamespace(process_in=lambda latent: latent * scale)
            self.model_config = SimpleNamespace(latent_format=latents)
        else:
            self.predictor = prediction
            self.storage_dtype = self.computation_dtype = dtype

    def apply_model(
        self,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        control: dict | None = None,
        transformer_options: dict | None = None,
        **kwargs: Tensor,
    ) -> Tensor:
        """Clean latents of all rows of a call.

        Args:
            x: latents (n, 4, h, w), not scaled.
            t: noise levels (n,).
            c_concat: further channels of inpainting checkpoints, (n, 5, h, w).
            c_crossattn: text (n, tokens, width).
            control: residuals of the host's own control objects.
            transformer_options: which rows are which, among others.
            kwargs: `y` of SDXL.
        """
        scaled = self.prediction.calculate_input(t, x)
        if c_concat is not None:
            scaled = torch.cat([scaled, c_concat], dim=1)
        dtype = devices.dtype_unet
        given = {name: value.to(dtype) for name, value in kwargs.items()}
        output = self.diffusion_model(
            scaled.to(dtype),
            self.prediction.timestep(t).float(),
            context=c_crossattn.to(dtype),
            control=control,
            transformer_options=transformer_options or {},
            **given,
        )
        return self.prediction.calculate_denoised(t, output.float(), x)


class ModelPatcher:
    """A model and the options that extensions set for the next sampling."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.model_options: dict[str, Any] = {"transformer_options": {}}

    def clone(self) -> ModelPatcher:
        """A patcher of the same model, with deep copies of its options."""
        other = type(self)(self.model)
        other.model_options = copy.deepcopy(self.model_options)
        return other

    def model_dtype(self) -> torch.dtype:
        """Type in which it computes."""
        return devices.dtype_unet


class UnetPatcher(ModelPatcher):
    """That of a U-Net."""

    def __init__(self, model: KModel) -> None:
        super().__init__(model)
        self.extra_preserved_memory_during_sampling = 0
        self.extra_model_patchers_during_sampling: list[ModelPatcher] = []

    def clone(self) -> UnetPatcher:
        """See `ModelPatcher.clone`."""
        other = super().clone()
        other.extra_preserved_memory_during_sampling = self.extra_preserved_memory_during_sampling
        other.extra_model_patchers_during_sampling = [*self.extra_model_patchers_during_sampling]
        return other

    def add_extra_preserved_memory_during_sampling(self, memory_in_bytes: int) -> None:
        """Keep so much more room on the device."""
        self.extra_preserved_memory_during_sampling += memory_in_bytes

    def add_extra_model_patcher_during_sampling(self, model_patcher: ModelPatcher) -> None:
        """Bring something else to the device together with the U-Net."""
        self.extra_model_patchers_during_sampling.append(model_patcher)

    def set_transformer_option(self, k: str, v: object) -> None:
        """Tell the U-Net's calls something."""
        self.model_options["transformer_options"][k] = v

    def set_model_unet_function_wrapper(self, wrapper: Callable[..., Tensor]) -> None:
        """Put a function between guidance and the model; the last one that is put counts."""
        self.model_options["model_function_wrapper"] = wrapper


@dataclass
class ForgeObjects:
    """The parts of a checkpoint."""

    unet: UnetPatcher
    clip: Any
    vae: Any
    clipvision: Any = None

    def shallow_copy(self) -> ForgeObjects:
        """The same parts in another object."""
        return copy.copy(self)
