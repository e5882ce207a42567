"""Everything between the command line and the page, in the order that extensions rely on."""

from __future__ import annotations

import sys
import threading

from modules import errors


def imports() -> None:
    """Import the heavy packages and apply what the host changes in them."""
    import gradio  # noqa: F401
    import torch  # noqa: F401
    from modules import safe, shared  # noqa: F401 (safe replaces torch.load)

    if shared.cmd_opts.like != "a1111":
        from miniforge.install import install

        install(shared.cmd_opts.like)
    if not shared.cmd_opts.xformers:
        sys.modules.setdefault("xformers", None)


def initialize() -> None:
    """Find checkpoints, then load extensions and scripts."""
    from modules import sd_models

    sd_models.setup_model()
    initialize_rest(reload_script_modules=False)


def initialize_rest(*, reload_script_modules: bool = False) -> None:
    """The part that `Reload UI` repeats."""
    from modules import extensions, scripts, sd_unet

    extensions.list_extensions()
    scripts.load_scripts()
    sd_unet.list_unets()
    configure_opts_onchange()
    if not reload_script_modules:
        threading.Thread(target=load_model, name="load checkpoint", daemon=True).start()


def load_model() -> None:
    """Load the checkpoint; what goes wrong is printed, and tried again when it is needed."""
    from modules import shared

    try:
        shared.sd_model  # noqa: B018 (the access loads it)
    except Exception as e:
        errors.display(e, "loading stable diffusion model", full_traceback=True)


def configure_opts_onchange() -> None:
    """Let changes of some settings take effect at once."""
    from modules import sd_models, shared
    from modules.call_queue import wrap_queued_call

    reload_model = wrap_queued_call(sd_models.reload_model_weights)
    shared.opts.onchange("sd_model_checkpoint", reload_model, call=False)
