"""Prompts as the U-Net reads them: CLIP and OpenCLIP text encoders of SD1, SD2 and SDXL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from .errors import TrainError
from .names import open_clip_tensors
from .packages import need
from .sizes import clip_arguments

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lib_controlnet.files.containers import TensorFile, TensorInfo

CLIP: Final = "openai/clip-vit-large-patch14"
LENGTH: Final = 77
FIRST: Final = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
OPEN: Final = ("cond_stage_model.model.", "conditioner.embedders.1.model.")


@dataclass(frozen=True)
class TextEncoder:
    """A text encoder with its tokenizer.

    Attributes:
        module: `CLIPTextModel`, or `CLIPTextModelWithProjection` where the U-Net wants the
            pooled text.
        penultimate: tokens are taken before the last layer, without the final norm (SDXL).
        zero_padding: short prompts are filled up with token 0 (OpenCLIP), not the end token.
    """

    module: nn.Module
    tokenizer: Any
    penultimate: bool = False
    zero_padding: bool = False

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> tuple[Tensor, Tensor | None]:
        """Tokens (b, 77, c) of prompts, longer ones are cut, and the pooled text (b, p) or None."""
        options = {"truncation": True, "max_length": LENGTH, "return_tensors": "pt"}
        asked = self.tokenizer(prompts, padding="max_length", **options)
        ids = asked["input_ids"]
        if self.zero_padding:
            lengths = [len(self.tokenizer(p, truncation=True, max_length=LENGTH)["input_ids"])
                       for p in prompts]  # fmt: skip
            for row, length in zip(ids, lengths, strict=True):
                row[length:] = 0
        out = self.module(ids.to(self.module.device), output_hidden_states=True)
        pooled = getattr(out, "text_embeds", None)
        tokens = out.hidden_states[-2] if self.penultimate else out.last_hidden_state
        return tokens, pooled


@torch.no_grad()
def encode_prompts(encoders: list[TextEncoder], prompts: list[str]) -> tuple[Tensor, Tensor | None]:
    """Context (b, 77, c) of prompts, and the last encoder's pooled text (b, p) or None."""
    parts = [encoder.encode(prompts) for encoder in encoders]
    return torch.cat([tokens for tokens, _ in parts], dim=2), parts[-1][1]


def text_width(infos: Mapping[str, TensorInfo]) -> int | None:
    """Width of SDXL's pooled text in a checkpoint file, None without that encoder."""
    info = infos.get(f"{OPEN[1]}text_projection")
    return None if info is None else int(info.shape[1])


def ldm_encoders(
    path: Path, file: TensorFile, yaml: Mapping[str, Any], tokenizers: list[str]
) -> list[TextEncoder]:
    """The text encoders in a checkpoint file.

    Raises:
        TrainError: the file has none, or no tokenizer is found for it.
    """
    two = any(name.startswith(OPEN[1]) for name in file.infos)
    found: list[TextEncoder] = []
    for prefix in (*FIRST, *OPEN):
        names = [name for name in file.infos if name.startswith(prefix)]
        if not names:
            continue
        tensors = {
            _own_name(name[len(prefix) :], prefix): tensor
            for name, tensor in file.read(names, torch.float32, "cpu")
            if not name.endswith(("position_ids", "logit_scale"))
        }
        given = [tokenizers[len(found)]] if len(found) < len(tokenizers) else []
        folder = _tokenizer_folder(path, yaml, given)
        make = _clip if prefix in FIRST else _open_clip
        found.append(make(tensors, folder, two))
    if not found:
        msg = f"{path.name} holds no text encoder; expected tensors under {FIRST[0]} or {OPEN[0]}"
        raise TrainError(msg)
    return found


def _own_name(name: str, prefix: str) -> str:
    """The name in transformers' class; files of older versions leave out its beginning."""
    head = "text_model."
    return name if prefix in OPEN or name.startswith(head) else head + name


def _tokenizer_folder(path: Path, yaml: Mapping[str, Any], given: list[str]) -> str:
    """A folder of the tokenizer: the one given, one beside the file, or CLIP's on the hub."""
    if given:
        return given[0]
    version = ((yaml.get("cond_stage_config") or {}).get("params") or {}).get("version")
    for name in (*([Path(version).name] if version else []), f"{path.stem}-clip"):
        if (path.parent / name / "vocab.json").is_file():
            return str(path.parent / name)
    return CLIP


def _clip(tensors: dict[str, Tensor], folder: str, two: bool) -> TextEncoder:
    transformers = need("transformers")
    config_file = Path(folder) / "config.json"
    arguments = clip_arguments({name: tuple(t.shape) for name, t in tensors.items()})
    if config_file.is_file():
        config = transformers.CLIPTextConfig.from_pretrained(folder, local_files_only=True)
    else:
        config = transformers.CLIPTextConfig(**arguments)
    module = transformers.CLIPTextModel(config)
    _load(module, tensors)
    return TextEncoder(module, _tokenizer(folder), penultimate=two)


def _open_clip(tensors: dict[str, Tensor], folder: str, two: bool) -> TextEncoder:
    """SD2's and SDXL's second encoder.

    SD2 reads the tokens before the last layer, normed: the same as a network without that layer.
    """
    transformers = need("transformers")
    layers = 1 + max(
        int(name.split(".")[2]) for name in tensors if name.startswith("transformer.resblocks.")
    )
    kept = layers if two else layers - 1
    own = dict(open_clip_tensors(tensors, kept))
    arguments = clip_arguments({name: tuple(t.shape) for name, t in own.items()})
    tokenizer = _tokenizer(folder)
    config = transformers.CLIPTextConfig(**arguments, hidden_act="gelu")
    config.eos_token_id = tokenizer.eos_token_id  # where the pooled text is read
    if two:
        config.projection_dim = own["text_projection.weight"].shape[0]
        module = transformers.CLIPTextModelWithProjection(config)
    else:
        own.pop("text_projection.weight", None)
        module = transformers.CLIPTextModel(config)
    _load(module, own)
    return TextEncoder(module, tokenizer, penultimate=two, zero_padding=True)


def _load(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    missing, unexpected = module.load_state_dict(tensors, strict=False)
    missing = [name for name in missing if not name.endswith("position_ids")]
    if missing or unexpected:
        msg = (
            f"the base's text encoder does not fit: {len(missing)} tensors missing "
            f"({', '.join(missing[:2])}), {len(unexpected)} unexpected "
            f"({', '.join(unexpected[:2])})"
        )
        raise TrainError(msg)
    module.eval().requires_grad_(False)


def _tokenizer(folder: str) -> Any:
    try:
        return need("transformers").CLIPTokenizer.from_pretrained(folder)
    except (OSError, ValueError, TypeError) as error:
        msg = (
            f"the tokenizer {folder} cannot be read ({type(error).__name__}); a checkpoint file "
            "does not hold its words: name a folder with vocab.json and merges.txt by --tokenizer"
        )
        raise TrainError(msg) from error


def diffusers_encoders(path: Path, variant: Callable[[str], str | None]) -> list[TextEncoder]:
    """The text encoders of a diffusers folder; `variant` tells which of a part's files to read."""
    transformers = need("transformers")
    two = (path / "text_encoder_2").is_dir()
    found = []
    for number in ("", "_2") if two else ("",):
        folder = path / f"text_encoder{number}"
        if not folder.is_dir():
            msg = f"{path} is no complete diffusers folder: text_encoder is missing"
            raise TrainError(msg)
        kind = "CLIPTextModelWithProjection" if number else "CLIPTextModel"
        module = getattr(transformers, kind).from_pretrained(
            str(folder), variant=variant(folder.name), local_files_only=True
        )
        tokenizer = _tokenizer(str(path / f"tokenizer{number}"))
        # Their tokenizer files name the padding themselves.
        module = module.float().eval().requires_grad_(False)
        found.append(TextEncoder(module, tokenizer, penultimate=two))
    return found
