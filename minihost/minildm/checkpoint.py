"""Load a checkpoint in the single-file layout of Stable Diffusion 1.x or SDXL, save 1.x's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from .config import (
    TEXT_PREFIX,
    TEXTS_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
    ModelConfig,
    config_from_shapes,
    read_yaml,
)
from .schedule import alphas_cumprod
from .text import TextEncoder, TextEncoders, load_text_config, load_tokenizer, text_encoders
from .unet import UNetModel
from .vae import AutoencoderKL, SampledAutoencoderKL


@dataclass
class LoadedCheckpoint:
    """The networks of one checkpoint, in eval mode, and what is needed to sample from it."""

    unet: UNetModel
    vae: AutoencoderKL
    text: TextEncoder | TextEncoders
    tokenizer: CLIPTokenizer
    alphas_cumprod: Tensor
    config: ModelConfig

    @property
    def parameterization(self) -> str:
        """What the U-Net predicts: "eps" or "v"."""
        return self.config.parameterization

    @property
    def is_sdxl(self) -> bool:
        """Whether it is of SDXL's kind: a vector condition beside the text."""
        return isinstance(self.text, TextEncoders)

    @property
    def scale_factor(self) -> float:
        """Factor from the VAE's latent to the U-Net's."""
        return self.config.scale_factor


def load_checkpoint(path: Path | str, dtype: torch.dtype = torch.float32) -> LoadedCheckpoint:
    """Load a safetensors checkpoint; sizes come from the YAML beside it, if there is one.

    The tokenizer folder is the one that the YAML names, looked for beside the checkpoint by
    its last path component, else `<stem>-clip` beside it.

    Args:
        path: `<stem>.safetensors`.
        dtype: type that the weights are converted to.
    """
    path = Path(path)
    tensors = load_file(path)
    yaml = path.with_suffix(".yaml")
    config = read_yaml(yaml) if yaml.exists() else config_from_shapes(tensors)
    folder = _text_folder(path, config)
    if config.vae is None:
        msg = f"{path.name}: no tensor starts with {VAE_PREFIX}, expected a VAE in the file"
        raise ValueError(msg)
    texts = {k[len(TEXTS_PREFIX) :]: v for k, v in tensors.items() if k.startswith(TEXTS_PREFIX)}
    text_config = load_text_config(folder)
    with torch.device("meta"):  # first weights that nobody uses would take most of the time
        vae = SampledAutoencoderKL if texts else AutoencoderKL
        parts: dict[str, nn.Module] = {
            UNET_PREFIX: UNetModel(**config.unet),
            VAE_PREFIX: vae(**config.vae),
        }
    text_prefix = TEXTS_PREFIX if texts else TEXT_PREFIX
    parts[text_prefix] = text_encoders(texts, text_config) if texts else TextEncoder(text_config)
    for prefix, module in parts.items():
        _load_part(path.name, tensors, prefix, module)
        module.to(dtype).eval().requires_grad_(False)
    return LoadedCheckpoint(
        unet=parts[UNET_PREFIX],
        vae=parts[VAE_PREFIX],
        text=parts[text_prefix],
        tokenizer=load_tokenizer(folder),
        alphas_cumprod=alphas_cumprod(config.timesteps, config.linear_start, config.linear_end),
        config=config,
    )


def checkpoint_tensors(unet: nn.Module, vae: nn.Module, text: nn.Module) -> dict[str, Tensor]:
    """The state dicts of the three parts under their prefixes."""
    parts = {UNET_PREFIX: unet, VAE_PREFIX: vae, TEXT_PREFIX: text}
    return {
        prefix + key: tensor
        for prefix, module in parts.items()
        for key, tensor in module.state_dict().items()
    }


def save_half(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as fp16 safetensors, replacing the file in one step."""
    half = {k: v.detach().half().contiguous() for k, v in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    save_file(half, partial)
    partial.replace(path)


def _text_folder(path: Path, config: ModelConfig) -> Path:
    names = [f"{path.stem}-clip"]
    if config.text_version:
        names.insert(0, Path(config.text_version).name)
    for name in names:
        folder = path.parent / name
        if (folder / "vocab.json").exists():
            return folder
    msg = f"{path.name}: no tokenizer folder beside it, looked for {' and '.join(names)}"
    raise FileNotFoundError(msg)


def _load_part(name: str, tensors: Mapping[str, Tensor], prefix: str, module: nn.Module) -> None:
    own = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
    own = {k: v for k, v in own.items() if not k.endswith(("position_ids", "logit_scale"))}
    missing, unexpected = module.load_state_dict(own, strict=False, assign=True)
    if missing or unexpected:
        msg = (
            f"{name}: {len(missing)} tensors missing under {prefix} (first {missing[:2]}), "
            f"{len(unexpected)} unexpected (first {unexpected[:2]})"
        )
        raise ValueError(msg)
