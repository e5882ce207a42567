"""Everything between the command line and the page, in the order that extensions rely on."""

from __future__ import annotations

import sys
import threading

from modules import errors, timer

startup_timer = timer.startup_timer


def imports() -> None:
    """Import the heavy packages and apply what the host changes in them."""
    import torch  # noqa: F401

    startup_timer.record("import torch")
    import gradio  # noqa: F401

    startup_timer.record("import gradio")
    from modules import safe, shared  # noqa: F401 (safe replaces torch.load)

    if not shared.cmd_opts.xformers:
        sys.modules.setdefault("xformers", None)
    startup_timer.record("import host")


def initialize() -> None:
    """Find checkpoints, then load extensions and scripts."""
    from modules import sd_models

    sd_models.setup_model()
    startup_timer.record("setup SD model")
    initialize_rest(reload_script_modules=False)


def initialize_rest(*, reload_script_modules: bool = False) -> None:
    """The part that `Reload UI` repeats."""
    from modules import extensions, modelloader, scripts, sd_samplers, sd_unet, sd_vae, shared

    sd_samplers.set_samplers()
    extensions.list_extensions()
    startup_timer.record("list extensions")
    shared.list_checkpoint_tiles()
    with startup_timer.subcategory("load scripts"):
        scripts.load_scripts()
    modelloader.load_upscalers()
    sd_vae.refresh_vae_list()
    sd_unet.list_unets()
    _extra_networks()
    configure_opts_onchange()
    if not reload_script_modules and not shared.cmd_opts.ui_debug_mode:
        threading.Thread(target=load_model, name="load checkpoint", daemon=True).start()
    startup_timer.record("rest")


def _extra_networks() -> None:
    from modules import extra_networks

    extra_networks.initialize()
    extra_networks.register_default_extra_networks()


def load_model() -> None:
    """Load the checkpoint; what goes wrong is printed, and tried again when it is needed."""
    from modules import shared

    try:
        shared.sd_model  # noqa: B018 (the access loads it)
    except Exception as e:
        errors.display(e, "loading stable diffusion model", full_traceback=True)


def configure_opts_onchange() -> None:
    """Let changes of some settings take effect at once."""
    from modules import sd_models, sd_vae, shared
    from modules.call_queue import wrap_queued_call

    reload_model = wrap_queued_call(sd_models.reload_model_weights)
    reload_vae = wrap_queued_call(sd_vae.reload_vae_weights)
    shared.opts.onchange("sd_model_checkpoint", reload_model, call=False)
    shared.opts.onchange("sd_vae", reload_vae, call=False)
