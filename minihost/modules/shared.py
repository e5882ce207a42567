"""State that everything in the host and most extensions reach for."""

from __future__ import annotations

import sys
from typing import Any

import torch
from modules import options, shared_items, shared_options, shared_state, util
from modules.options import OptionHTML, OptionInfo, categories
from modules.paths_internal import (
    data_path,
    extensions_builtin_dir,
    extensions_dir,
    models_path,
    script_path,
)
from modules.shared_cmd_options import cmd_opts
from modules.shared_options import options_templates, restricted_opts

options_section = options.options_section

batch_cond_uncond = True
parallel_processing_allowed = not (cmd_opts.lowvram or cmd_opts.medvram)
styles_filename = cmd_opts.styles_file
config_filename = cmd_opts.ui_settings_file
hide_dirs = {"visible": not cmd_opts.hide_ui_dir_config}

demo: Any = None
device: torch.device | None = None
weight_load_location: str | None = None
xformers_available = False
hypernetworks: dict[str, str] = {}
loaded_hypernetworks: list[Any] = []
prompt_styles: Any = None
interrogator: Any = None
face_restorers: list[Any] = []
sd_upscalers: list[Any] = []
clip_model: Any = None
progress_print_out = sys.stdout
gradio_theme: Any = None
mem_mon: Any = None

state = shared_state.State()
opts = options.Options(options_templates, restricted_opts)
opts.load(config_filename)
shared_options.categories = categories

latent_upscale_default_mode = "Latent"
latent_upscale_modes = {
    "Latent": {"mode": "bilinear", "antialias": False},
    "Latent (antialiased)": {"mode": "bilinear", "antialias": True},
    "Latent (bicubic)": {"mode": "bicubic", "antialias": False},
    "Latent (bicubic antialiased)": {"mode": "bicubic", "antialias": True},
    "Latent (nearest)": {"mode": "nearest", "antialias": False},
    "Latent (nearest-exact)": {"mode": "nearest-exact", "antialias": False},
}

total_tqdm = util.TotalTqdm()

natural_sort_key = util.natural_sort_key
listfiles = util.listfiles
html_path = util.html_path
html = util.html
walk_files = util.walk_files
ldm_print = util.ldm_print

list_checkpoint_tiles = shared_items.list_checkpoint_tiles
refresh_checkpoints = shared_items.refresh_checkpoints
list_samplers = shared_items.list_samplers

sys.modules[__name__].__class__ = shared_items.Shared

__all__ = [
    "OptionHTML", "OptionInfo", "batch_cond_uncond", "categories", "cmd_opts", "config_filename",
    "data_path", "extensions_builtin_dir", "extensions_dir", "models_path", "opts",
    "options_section", "script_path", "state",
]  # fmt: skip
