"""A base checkpoint to train for: an original file (LDM) or a folder of diffusers.

Networks are built as classes of diffusers and transformers, whatever the file: sizes come from
its tensors, so fine-tunes and models of any width are read alike.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import torch

from lib_controlnet.engine.unet import UNetShape, read_shape
from lib_controlnet.files.catalog import short_hash
from lib_controlnet.files.containers import open_container

from .errors import TrainError
from .names import unet_renamer, vae_renamer
from .packages import need
from .reading import read_content, read_mapping
from .sizes import unet_arguments, vae_arguments
from .text import TextEncoder, diffusers_encoders, ldm_encoders, text_width

if TYPE_CHECKING:
    from diffusers.models import AutoencoderKL, UNet2DConditionModel
    from torch import Tensor, nn

    from lib_controlnet.files.containers import TensorFile

log = logging.getLogger(__name__)

Module = TypeVar("Module", bound="nn.Module")

UNET: Final = "model.diffusion_model."
VAE: Final = "first_stage_model."
SHARED: Final = ("time_embed.", "label_emb.", "input_blocks.", "middle_block.")
"""Parts of a U-Net that a ControlNet copies."""
SCALES: Final = {"sdxl": 0.13025, "other": 0.18215}
OBJECTIVES: Final = {"eps": "eps", "epsilon": "eps", "v": "v", "v_prediction": "v"}
PARTS: Final = ("unet", "vae", "text_encoder", "text_encoder_2")
"""Folders of weights in a diffusers folder."""
LAST_ALPHA: Final = 4.8973451890853435e-08
"""The WebUI's stand-in for zero, which some formulas divide by."""
WEIGHT_FILES: Final = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
    "model.safetensors",
    "model.fp16.safetensors",
    "pytorch_model.bin",
)


class Base(ABC):
    """What training needs of a base model; networks are read when asked for.

    Attributes:
        path: the file or folder.
        name: how the base is called in messages and metadata.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.stem if path.is_file() else path.name

    @property
    @abstractmethod
    def files(self) -> list[Path]:
        """The files of weights."""

    @property
    def contents(self) -> str:
        """Tells other weights from these, wherever they are."""
        return ", ".join(f"{short_hash(path)} {path.stat().st_size}" for path in self.files)

    @property
    def identity(self) -> str:
        """Changes when the weights do; part of the cache's key."""
        states = [(short_hash(path), path.stat()) for path in self.files]
        return ", ".join(f"{mark}-{state.st_size}-{state.st_mtime_ns}" for mark, state in states)

    @property
    @abstractmethod
    def objective(self) -> str | None:
        """What the U-Net predicts, `eps` or `v`; None where nothing tells."""

    @property
    @abstractmethod
    def scale_factor(self) -> float:
        """Factor between the autoencoder's latents and the U-Net's."""

    @property
    @abstractmethod
    def schedule(self) -> tuple[float, float, int]:
        """First and last beta, and the number of timesteps."""

    @property
    @abstractmethod
    def ends_in_noise(self) -> bool:
        """Whether nothing is left of the picture at the last timestep (zero terminal SNR)."""

    @property
    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the U-Net's tensors, by their original names."""

    @cached_property
    def shape(self) -> UNetShape:
        """The U-Net's structure."""
        return read_shape(self.shapes)

    @property
    @abstractmethod
    def unet_arguments(self) -> dict[str, Any]:
        """Arguments of diffusers' U-Net class."""

    @abstractmethod
    def encoder(self) -> Iterator[tuple[str, Tensor]]:
        """Tensors of encoder and middle, by their original names."""

    @abstractmethod
    def unet(self) -> UNet2DConditionModel:
        """The U-Net, float32, as diffusers' class."""

    @abstractmethod
    def vae(self) -> AutoencoderKL:
        """The autoencoder, float32, as diffusers' class."""

    @abstractmethod
    def texts(self) -> list[TextEncoder]:
        """The text encoders, one or, for SDXL, two."""

    def alphas(self) -> Tensor:
        """Share of the clean signal's variance left at each timestep, float32 (timesteps,)."""
        first, last, count = self.schedule
        betas = torch.linspace(first**0.5, last**0.5, count, dtype=torch.float64) ** 2
        alphas = torch.cumprod(1.0 - betas, dim=0)
        if self.ends_in_noise:  # Lin et al., arXiv:2305.08891, algorithm 1
            roots = alphas.sqrt()
            alphas = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
            alphas[-1] = LAST_ALPHA
        return alphas.float()


class LdmBase(Base):
    """A single checkpoint file in the original layout, with or without a YAML beside it."""

    def __init__(self, path: Path, tokenizers: list[str]) -> None:
        super().__init__(path)
        self.tokenizers = tokenizers
        self._file: TensorFile = open_container(path)
        if not any(name.startswith(UNET) for name in self._file.infos):
            msg = f"{path.name} is no Stable Diffusion checkpoint: no tensor starts with {UNET}"
            raise TrainError(msg)

    @cached_property
    def yaml(self) -> dict[str, Any]:
        """`model.params` of the YAML beside the file; empty without one."""
        path = self.path.with_suffix(".yaml")
        if not path.is_file():
            return {}
        content = read_content(path)
        try:
            return dict(content["model"]["params"])
        except (TypeError, KeyError):
            msg = f"{path.name} has no model.params, which every description of a checkpoint has"
            raise TrainError(msg) from None

    @property
    def files(self) -> list[Path]:
        return [self.path]

    @property
    def identity(self) -> str:
        """Words that another tokenizer cuts are other words to the text encoder."""
        return ", ".join([super().identity, *self.tokenizers])

    @property
    def objective(self) -> str | None:
        given = self.yaml.get("parameterization") or self._file.metadata.get(
            "modelspec.prediction_type"
        )
        if "v_pred" in self._file.infos:
            given = "v"
        return OBJECTIVES.get(str(given)) if given else None

    @property
    def scale_factor(self) -> float:
        known = SCALES["sdxl" if self.shape.adm_channels is not None else "other"]
        return float(self.yaml.get("scale_factor", known))

    @property
    def schedule(self) -> tuple[float, float, int]:
        yaml = self.yaml
        first, last = yaml.get("linear_start", 0.00085), yaml.get("linear_end", 0.0120)
        return float(first), float(last), int(yaml.get("timesteps", 1000))

    @property
    def ends_in_noise(self) -> bool:
        return "ztsnr" in self._file.infos

    def _shapes(self, prefix: str) -> dict[str, tuple[int, ...]]:
        found = {
            name[len(prefix) :]: info.shape
            for name, info in self._file.infos.items()
            if name.startswith(prefix)
        }
        if not found:
            msg = f"{self.path.name} holds no tensor under {prefix}"
            raise TrainError(msg)
        return found

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self._shapes(UNET)

    @cached_property
    def unet_arguments(self) -> dict[str, Any]:
        yaml = (self.yaml.get("unet_config") or {}).get("params") or {}
        return unet_arguments(self.shapes, yaml, text_width(self._file.infos))

    def encoder(self) -> Iterator[tuple[str, Tensor]]:
        wanted = [UNET + name for name in self.shapes if name.startswith(SHARED)]
        for name, tensor in self._file.read(wanted, None, "cpu"):
            yield name[len(UNET) :], tensor

    def unet(self) -> UNet2DConditionModel:
        with torch.device("meta"):
            module = need("diffusers").UNet2DConditionModel(**self.unet_arguments)
        return self._fill(module, UNET, unet_renamer(module.state_dict()))

    def vae(self) -> AutoencoderKL:
        arguments = vae_arguments(self._shapes(VAE))
        with torch.device("meta"):
            module = need("diffusers").AutoencoderKL(**arguments)
        levels = len(arguments["block_out_channels"])
        return self._fill(module, VAE, vae_renamer(levels))

    def _fill(self, module: Module, prefix: str, rename: Any) -> Module:
        """Fill a network built on the meta device; linear layers and 1x1 convolutions are alike."""
        wanted = {prefix + rename(name): name for name in module.state_dict()}
        missing = sorted(wanted.keys() - self._file.infos.keys())
        if missing:
            msg = f"{self.path.name}: {len(missing)} tensors are missing, such as {missing[0]}"
            raise TrainError(msg)
        shapes = {name: value.shape for name, value in module.state_dict().items()}
        tensors = {
            wanted[name]: tensor.reshape(shapes[wanted[name]])
            for name, tensor in self._file.read(wanted, torch.float32, "cpu")
        }
        module.load_state_dict(tensors, assign=True)
        return module.eval().requires_grad_(False)

    def texts(self) -> list[TextEncoder]:
        return ldm_encoders(self.path, self._file, self.yaml, self.tokenizers)


class DiffusersBase(Base):
    """A folder as diffusers saves pipelines: `unet/`, `vae/`, `text_encoder/`, ..."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        for part in ("unet", "vae"):
            if not (path / part / "config.json").is_file():
                msg = f"{path} is no diffusers folder: {part}/config.json is missing"
                raise TrainError(msg)

    def _config(self, place: str) -> Mapping[str, Any]:
        path = self.path / place
        return read_mapping(path) if path.is_file() else {}

    def _weights(self, part: str) -> list[Path]:
        """The file of a part, or the files where it was too large for one."""
        for name in WEIGHT_FILES:
            if (self.path / part / name).is_file():
                return [self.path / part / name]
            if index := self._config(f"{part}/{name}.index.json"):
                return [
                    self.path / part / file for file in sorted(set(index["weight_map"].values()))
                ]
        msg = f"{self.path / part} holds no weights; looked for {', '.join(WEIGHT_FILES)}"
        raise TrainError(msg)

    def _variant(self, part: str) -> str | None:
        return "fp16" if ".fp16." in self._weights(part)[0].name else None

    @property
    def files(self) -> list[Path]:
        parts = [part for part in PARTS if (self.path / part).is_dir()]
        return [path for part in parts for path in self._weights(part)]

    @property
    def objective(self) -> str | None:
        given = self._config("scheduler/scheduler_config.json").get("prediction_type")
        return OBJECTIVES.get(str(given)) if given else None

    @property
    def scale_factor(self) -> float:
        return float(self._config("vae/config.json").get("scaling_factor", SCALES["other"]))

    @property
    def schedule(self) -> tuple[float, float, int]:
        config = self._config("scheduler/scheduler_config.json")
        first, last = config.get("beta_start", 0.00085), config.get("beta_end", 0.0120)
        return float(first), float(last), int(config.get("num_train_timesteps", 1000))

    @property
    def ends_in_noise(self) -> bool:
        return bool(self._config("scheduler/scheduler_config.json").get("rescale_betas_zero_snr"))

    @cached_property
    def _unet_files(self) -> tuple[list[TensorFile], dict[str, str]]:
        files = [open_container(path) for path in self._weights("unet")]
        names = [name for file in files for name in file.infos]
        rename = unet_renamer(names)
        return files, {name: rename(name) for name in names}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        files, names = self._unet_files
        infos = [entry for file in files for entry in file.infos.items()]
        return {names[name]: info.shape for name, info in infos}

    @cached_property
    def unet_arguments(self) -> dict[str, Any]:
        config = self._config("unet/config.json")
        return {key: value for key, value in config.items() if not key.startswith("_")}

    def encoder(self) -> Iterator[tuple[str, Tensor]]:
        files, names = self._unet_files
        for file in files:
            wanted = [name for name in file.infos if names[name].startswith(SHARED)]
            for name, tensor in file.read(wanted, None, "cpu"):
                yield names[name], tensor

    def unet(self) -> UNet2DConditionModel:
        return self._load("UNet2DConditionModel", "unet")

    def vae(self) -> AutoencoderKL:
        return self._load("AutoencoderKL", "vae")

    def _load(self, name: str, part: str) -> Any:
        options = {"low_cpu_mem_usage": False, "local_files_only": True}
        module = getattr(need("diffusers"), name).from_pretrained(
            str(self.path / part), variant=self._variant(part), **options
        )
        return module.float().eval().requires_grad_(False)

    def texts(self) -> list[TextEncoder]:
        return diffusers_encoders(self.path, self._variant)


def open_base(path: Path | str, tokenizers: list[str] | None = None) -> Base:
    """Open a base checkpoint.

    Args:
        path: a checkpoint file in the original layout, or a folder of diffusers.
        tokenizers: folders or hub names of tokenizers, for files that do not say.

    Raises:
        TrainError: there is no such base, or it is of an unknown kind.
    """
    path = Path(path)
    if path.is_dir():
        return DiffusersBase(path)
    if not path.is_file():
        msg = f"the base {path} does not exist"
        raise TrainError(msg)
    return LdmBase(path, list(tokenizers or []))
