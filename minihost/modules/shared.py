"""State that everything in the host and most extensions reach for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from modules import options, shared_items, shared_state, upscaler, util
from modules.options import OptionHTML, OptionInfo
from modules.paths_internal import (
    data_path,
    extensions_dir,
    models_path,
    script_path,
)
from modules.shared_cmd_options import cmd_opts
from modules.shared_options import options_templates, restricted_opts

options_section = options.options_section

parallel_processing_allowed = not (cmd_opts.lowvram or cmd_opts.medvram)
config_filename = str(Path(data_path) / "config.json")

demo: Any = None
device: torch.device | None = None
sd_upscalers = upscaler.load_upscalers()

state = shared_state.State()
opts = options.Options(options_templates, restricted_opts)
opts.load(config_filename)

latent_upscale_default_mode = "Latent"
latent_upscale_modes = {
    "Latent": {"mode": "bilinear", "antialias": False},
    "Latent (antialiased)": {"mode": "bilinear", "antialias": True},
    "Latent (bicubic)": {"mode": "bicubic", "antialias": False},
    "Latent (bicubic antialiased)": {"mode": "bicubic", "antialias": True},
    "Latent (nearest)": {"mode": "nearest", "antialias": False},
    "Latent (nearest-exact)": {"mode": "nearest-exact", "antialias": False},
}

natural_sort_key = util.natural_sort_key

list_checkpoint_tiles = shared_items.list_checkpoint_tiles
refresh_checkpoints = shared_items.refresh_checkpoints

sys.modules[__name__].__class__ = shared_items.Shared

__all__ = [
    "OptionHTML", "OptionInfo", "cmd_opts", "config_filename",
    "data_path", "extensions_dir", "models_path", "opts",
    "options_section", "script_path", "state",
]  # fmt: skip
