"""Finding checkpoints on disk, and loading, changing and unloading the current one."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from pathlib import Path

import torch

# At the top although it is slow: imported first by the thread that loads the checkpoint, it
# would meet a half-imported cv2 of the main thread.
from minildm.checkpoint import load_checkpoint
from modules import devices, errors, hashes, script_callbacks, sd_hijack, shared
from modules.latent_model import LatentDiffusion
from modules.paths_internal import assets_path, models_path
from modules.sd_models_xl import DiffusionEngine
from torch import nn

log = logging.getLogger(__name__)

model_dir = "Stable-diffusion"
model_path = str(Path(models_path) / model_dir)

checkpoints_list: dict[str, CheckpointInfo] = {}
checkpoint_aliases: dict[str, CheckpointInfo] = {}

UNET_PREFIX = "model.diffusion_model."


class CheckpointInfo:
    """One checkpoint file.

    Args:
        filename: path of the file.
    """

    def __init__(self, filename: str | Path) -> None:
        path = Path(filename).absolute()
        self.filename = str(path)
        name = next(
            (str(path.relative_to(root)) for root in _folders() if path.is_relative_to(root)),
            path.name,
        )
        self.name = name.replace("\\", "/").lstrip("/")
        self.name_for_extra = path.stem
        self.model_name = str(Path(self.name).with_suffix("")).replace("/", "_")
        self.hash = model_hash(path)
        self.sha256 = hashes.sha256_from_cache(path, f"checkpoint/{self.name}")
        self.metadata = read_metadata(path)
        self._rename()

    def _rename(self) -> None:
        self.shorthash = self.sha256[:10] if self.sha256 else None
        suffix = f" [{self.shorthash}]" if self.shorthash else ""
        self.title = self.name + suffix
        self.short_title = self.name_for_extra + suffix
        stem, file_name = Path(self.filename).stem, Path(self.filename).name
        plain = [self.hash, self.model_name, self.title, self.name, self.name_for_extra]
        plain += [file_name, stem, f"{self.name} [{self.hash}]"]
        if self.shorthash:
            plain += [self.shorthash, self.sha256, f"{self.name} [{self.shorthash}]"]
            plain += [f"{self.name_for_extra} [{self.shorthash}]"]
        self.ids = list(dict.fromkeys(plain))

    def register(self) -> None:
        """Make the checkpoint findable under all its names."""
        checkpoints_list[self.title] = self
        for name in self.ids:
            checkpoint_aliases[name] = self

    def calculate_shorthash(self) -> str:
        """First ten digits of the file's SHA-256; the title gets them too."""
        self.sha256 = hashes.sha256(self.filename, f"checkpoint/{self.name}")
        old_title = self.title
        self._rename()
        if checkpoints_list.get(old_title) is self:
            del checkpoints_list[old_title]
        self.register()
        return self.shorthash

    def __str__(self) -> str:
        return self.title


def model_hash(filename: str | Path) -> str:
    """The WebUI's old hash: eight digits over 64 KiB in the middle of the file."""
    try:
        with Path(filename).open("rb") as file:
            file.seek(0x100000)
            return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]
    except OSError:
        return "NOFILE"


def _safetensors_header(path: Path) -> dict:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(length))


def read_metadata(filename: str | Path) -> dict:
    """The `__metadata__` of a safetensors file; empty for others."""
    path = Path(filename)
    if path.suffix.lower() != ".safetensors":
        return {}
    try:
        return dict(_safetensors_header(path).get("__metadata__", {}))
    except (OSError, ValueError):
        return {}


def _is_checkpoint(path: Path) -> bool:
    """Whether the file holds a U-Net; control models and VAEs lie in the same folders."""
    try:
        return any(key.startswith(UNET_PREFIX) for key in _safetensors_header(path))
    except (OSError, ValueError) as error:
        log.warning("%s is not a readable safetensors file: %s", path, error)
        return False


def _folders() -> list[Path]:
    folders = [Path(model_path)]
    if shared.cmd_opts.ckpt_dir:
        folders.append(Path(shared.cmd_opts.ckpt_dir).absolute())
    return [*folders, Path(assets_path)]


def setup_model() -> None:
    """Make the folder of checkpoints and look what is in it."""
    Path(model_path).mkdir(parents=True, exist_ok=True)
    list_models()


def list_models() -> None:
    """Look for checkpoints on disk again."""
    checkpoints_list.clear()
    checkpoint_aliases.clear()
    for folder in _folders():
        for path in sorted(folder.rglob("*.safetensors")) if folder.is_dir() else []:
            if _is_checkpoint(path):
                CheckpointInfo(path).register()
    forced = shared.cmd_opts.ckpt
    if forced and Path(forced).exists():
        info = CheckpointInfo(forced)
        info.register()
        shared.opts.data["sd_model_checkpoint"] = info.title
    elif forced:
        log.warning("--ckpt names %s, which does not exist", forced)


def checkpoint_tiles(use_short: bool = False) -> list[str]:
    """Titles of all checkpoints, in the order of a person."""
    titles = [item.short_title if use_short else item.title for item in checkpoints_list.values()]
    return sorted(titles, key=shared.natural_sort_key)


def get_closet_checkpoint_match(search_string: str | None) -> CheckpointInfo | None:
    """The checkpoint with this name, title or hash, else the shortest title that contains it."""
    if not search_string:
        return None
    exact = checkpoint_aliases.get(search_string)
    if exact is not None:
        return exact
    text = search_string.split("[")[0].strip()
    found = [item for item in checkpoints_list.values() if search_string in item.title]
    found = found or [item for item in checkpoints_list.values() if text and text in item.title]
    return min(found, key=lambda item: len(item.title)) if found else None


def select_checkpoint() -> CheckpointInfo:
    """The checkpoint of the settings, else the first one.

    Raises:
        FileNotFoundError: there is no checkpoint at all.
    """
    wanted = shared.opts.sd_model_checkpoint
    info = checkpoint_aliases.get(wanted) or get_closet_checkpoint_match(wanted)
    if info is not None:
        return info
    if not checkpoints_list:
        folders = ", ".join(str(folder) for folder in _folders())
        msg = (
            f"no checkpoint (*.safetensors with {UNET_PREFIX}*) found in {folders}; "
            "put one there, or give its path with --ckpt"
        )
        raise FileNotFoundError(msg)
    info = next(iter(checkpoints_list.values()))
    if wanted is not None:
        log.warning("checkpoint %s not found; loading %s instead", wanted, info.title)
    return info


class SdModelData:
    """The current model; loaded at first use."""

    def __init__(self) -> None:
        self.sd_model: LatentDiffusion | None = None
        self.was_loaded_at_least_once = False
        self.lock = threading.Lock()

    def get_sd_model(self) -> LatentDiffusion | None:
        """The current model; the first call loads it, and says on stderr why it cannot."""
        if self.was_loaded_at_least_once:
            return self.sd_model
        with self.lock:
            if self.sd_model is None and not self.was_loaded_at_least_once:
                try:
                    load_model()
                except Exception as error:
                    errors.display(error, "loading stable diffusion model", full_traceback=True)
                    self.sd_model = None
        return self.sd_model

    def set_sd_model(self, v: LatentDiffusion | None) -> None:
        """Make `v` the current model."""
        self.sd_model = v


model_data = SdModelData()


class SkipWritingToConfig:
    """While it is open, changing the model does not change the settings."""

    skip = False
    previous: bool | None = None

    def __enter__(self) -> None:
        self.previous = SkipWritingToConfig.skip
        SkipWritingToConfig.skip = True

    def __exit__(self, *exc_info: object) -> None:
        SkipWritingToConfig.skip = bool(self.previous)


def get_empty_cond(sd_model: LatentDiffusion) -> torch.Tensor:
    """Context of the empty prompt, (1, 77, width)."""
    with torch.no_grad(), devices.autocast():
        cond = sd_model.get_learned_conditioning([""])
    return cond["crossattn"] if isinstance(cond, dict) else cond


def load_model(checkpoint_info: CheckpointInfo | None = None) -> LatentDiffusion:
    """Load a checkpoint (that of the settings when None) and make it the current model."""
    info = checkpoint_info or select_checkpoint()
    info.calculate_shorthash()
    current = model_data.sd_model
    fresh = make_model(info)
    if current is not None and current.architecture == fresh.architecture:
        sd_model = current
        _copy_weights(fresh, sd_model)
    else:
        if current is not None:
            _retire(current)
        sd_model = fresh
        place(sd_model)
    sd_model.eval().requires_grad_(False)
    describe(sd_model, info)
    model_data.set_sd_model(sd_model)
    model_data.was_loaded_at_least_once = True
    script_callbacks.model_loaded_callback(sd_model)
    sd_model.cond_stage_model_empty_prompt = get_empty_cond(sd_model)
    log.info("model %s loaded", info.title)
    return sd_model


def make_model(info: CheckpointInfo) -> LatentDiffusion:
    """A checkpoint's model, on the CPU."""
    loaded = load_checkpoint(info.filename)
    return (DiffusionEngine if loaded.is_sdxl else LatentDiffusion)(loaded)


def place(sd_model: LatentDiffusion) -> None:
    """Bring a model to where it generates, in the host's precisions."""
    sd_model.to(devices.device)
    sd_model.model.to(devices.dtype_unet)
    sd_model.cond_stage_model.to(devices.dtype)
    sd_model.first_stage_model.to(devices.dtype_vae)
    sd_hijack.model_hijack.hijack(sd_model)


@torch.no_grad()
def _copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Replace the weights in place: hooks and wrappers on the modules stay."""
    target.load_state_dict(source.state_dict())
    target.alphas_cumprod.copy_(source.alphas_cumprod)


def _retire(sd_model: LatentDiffusion) -> None:
    """Take a model out of memory; whoever still holds it has tensors without data."""
    sd_hijack.model_hijack.undo_hijack(sd_model)
    sd_model.to("meta")
    devices.torch_gc()


def describe(sd_model: LatentDiffusion, info: CheckpointInfo) -> None:
    """Note on a model which file it is."""
    sd_model.sd_model_hash = info.shorthash or info.hash
    sd_model.sd_model_checkpoint = info.filename
    sd_model.sd_checkpoint_info = info
    sd_model.filename = info.filename
    if not SkipWritingToConfig.skip:
        shared.opts.data["sd_model_checkpoint"] = info.title


def reload_model_weights(
    sd_model: LatentDiffusion | None = None,
    info: CheckpointInfo | None = None,
    forced_reload: bool = False,
) -> LatentDiffusion | None:
    """Make `info` (default: the checkpoint of the settings) the current model if it is not.

    When loading fails the previous checkpoint is loaded again and the error is passed on.
    """
    info = info or select_checkpoint()
    if not model_data.was_loaded_at_least_once:
        model_data.get_sd_model()  # waits for the thread that loads it at the start
    current = sd_model or model_data.sd_model
    previous = None if current is None else current.sd_checkpoint_info
    if not forced_reload and previous is not None and previous.filename == info.filename:
        return current
    try:
        return load_model(info)
    except Exception:
        log.warning("checkpoint %s could not be loaded; going back", info.title)
        if previous is not None:
            load_model(previous)
        raise


def unload_model_weights(sd_model: LatentDiffusion | None = None, info: object = None) -> object:
    """Move the current model to the CPU."""
    del info
    target = sd_model or model_data.sd_model
    if target is not None:
        target.to(devices.cpu)
        devices.torch_gc()
    return sd_model


def send_model_to_device(m: LatentDiffusion) -> None:
    """Bring a model back to where it generates."""
    m.to(devices.device)


def apply_alpha_schedule_override(sd_model: LatentDiffusion, p: object = None) -> None:
    """Apply the noise schedule setting: as trained, or rescaled to end without any signal."""
    alphas = sd_model.alphas_cumprod_original
    if shared.opts.sd_noise_schedule == "Zero Terminal SNR":
        if p is not None:
            p.extra_generation_params["Noise Schedule"] = "Zero Terminal SNR"
        alphas = rescale_zero_terminal_snr_abar(alphas)
    sd_model.alphas_cumprod = alphas.to(devices.device)


def rescale_zero_terminal_snr_abar(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """Shift and stretch sqrt(alpha) so that the last step has almost no signal; (1000,)."""
    root = alphas_cumprod.sqrt()
    first, last = root[0].clone(), root[-1].clone()
    rescaled = ((root - last) * (first / (first - last))) ** 2
    rescaled[-1] = 4.8973451890853435e-08
    return rescaled
