"""Replacing the checkpoint's VAE by one from another file."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from modules import hashes, shared
from modules.paths_internal import models_path
from safetensors.torch import load_file
from torch import nn

log = logging.getLogger(__name__)

vae_path = str(Path(models_path) / "VAE")
vae_dict: dict[str, str] = {}
base_vae: dict[str, torch.Tensor] | None = None
loaded_vae_file: str | None = None
unspecified = object()


@dataclass(frozen=True)
class VaeResolution:
    """Which file the settings ask for (None: the checkpoint's own), and why."""

    vae: str | None = None
    source: str | None = None
    resolved: bool = True

    def tuple(self) -> tuple[str | None, str | None]:
        """(file, why)."""
        return self.vae, self.source


def get_filename(filepath: str | Path) -> str:
    """Name of a VAE as the list shows it."""
    return Path(filepath).name


def refresh_vae_list() -> None:
    """Look for VAE files again."""
    vae_dict.clear()
    folders = [Path(vae_path)]
    if shared.cmd_opts.vae_dir:
        folders.append(Path(shared.cmd_opts.vae_dir))
    for folder in folders:
        for path in sorted(folder.rglob("*.safetensors")) if folder.is_dir() else []:
            vae_dict[get_filename(path)] = str(path)


def find_vae_near_checkpoint(checkpoint_file: str | Path) -> str | None:
    """`<stem>.vae.safetensors` beside a checkpoint."""
    path = Path(checkpoint_file).with_suffix(".vae.safetensors")
    return str(path) if path.is_file() else None


def resolve_vae(checkpoint_file: str | Path) -> VaeResolution:
    """The VAE that the command line and the settings ask for."""
    if shared.cmd_opts.vae_path is not None:
        return VaeResolution(shared.cmd_opts.vae_path, "from commandline argument")
    wanted = shared.opts.sd_vae
    if wanted == "None":
        return VaeResolution()
    if wanted not in ("Automatic", "auto", None):
        file = vae_dict.get(wanted)
        if file is None:
            log.warning("VAE %s is not known; using the checkpoint's own", wanted)
        return VaeResolution(file, "specified in settings", file is not None)
    near = find_vae_near_checkpoint(checkpoint_file)
    return VaeResolution(near, "found near the checkpoint" if near else None, False)


def get_loaded_vae_name() -> str | None:
    """File name of the VAE in use, None for the checkpoint's own."""
    return None if loaded_vae_file is None else Path(loaded_vae_file).name


def get_loaded_vae_hash() -> str | None:
    """First ten digits of its SHA-256."""
    if loaded_vae_file is None:
        return None
    digest = hashes.sha256(loaded_vae_file, f"vae/{Path(loaded_vae_file).name}")
    return digest[:10] if digest else None


def load_vae(model: nn.Module, vae_file: str | None = None, vae_source: str | None = None) -> None:
    """Load a VAE's weights into the model; None puts the checkpoint's own back."""
    global base_vae, loaded_vae_file  # noqa: PLW0603 - names other code reads
    if vae_file is None:
        restore_base_vae(model)
        return
    tensors = load_file(vae_file)
    tensors = {key.removeprefix("first_stage_model."): value for key, value in tensors.items()}
    known = model.first_stage_model.state_dict()
    tensors = {key: value for key, value in tensors.items() if key in known}
    if base_vae is None:
        base_vae = {key: value.clone().cpu() for key, value in known.items()}
    model.first_stage_model.load_state_dict(tensors)
    loaded_vae_file = vae_file
    log.info("loaded VAE %s (%s)", vae_file, vae_source)


def restore_base_vae(model: nn.Module) -> None:
    """Put the checkpoint's own VAE back."""
    if base_vae is not None:
        model.first_stage_model.load_state_dict(base_vae)
    delete_base_vae()


def delete_base_vae() -> None:
    """Forget the checkpoint's own VAE: its model is leaving memory."""
    global base_vae, loaded_vae_file  # noqa: PLW0603 - names other code reads
    base_vae = None
    loaded_vae_file = None


def clear_loaded_vae() -> None:
    """Forget which file the VAE came from."""
    global loaded_vae_file  # noqa: PLW0603 - a name other code reads
    loaded_vae_file = None


def reload_vae_weights(sd_model: nn.Module | None = None, vae_file: object = unspecified) -> object:
    """Load the VAE of the settings into the current model."""
    from modules import script_callbacks

    model = sd_model or shared.sd_model
    source = "given by the caller"
    if vae_file is unspecified:
        vae_file, source = resolve_vae(model.sd_checkpoint_info.filename).tuple()
    if loaded_vae_file == vae_file:
        return model
    load_vae(model, vae_file, source)
    script_callbacks.model_loaded_callback(model)
    return model
