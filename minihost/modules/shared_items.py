"""Lists that settings and the page offer, and the lazily loaded model of `modules.shared`."""

from __future__ import annotations

import html
import sys
from typing import Any


def sd_unet_items() -> list[str]:
    """Names offered for the U-Net setting."""
    import modules.sd_unet

    options = getattr(modules.sd_unet, "unet_options", [])
    return ["Automatic", *(x.label for x in options), "None"]


def list_checkpoint_tiles(use_short: bool = False) -> list[str]:
    """Titles of the checkpoints."""
    import modules.sd_models

    return modules.sd_models.checkpoint_tiles(use_short)


def refresh_checkpoints() -> None:
    """Look for checkpoints on disk again."""
    import modules.sd_models

    modules.sd_models.list_models()


def localizations() -> list[str]:
    """Languages that the page can be shown in."""
    import modules.localization

    return modules.localization.names()


_UI_CATEGORIES = (
    "prompt", "image", "inpaint", "sampler", "accordions", "checkboxes", "dimensions", "cfg",
    "denoising", "seed", "batch", "override_settings",
)  # fmt: skip


def ui_reorder_categories() -> list[str]:
    """Categories of a tab's settings column, script sections included, in default order."""
    from modules import scripts

    sections = {
        script.section: None
        for runner in (scripts.scripts_txt2img, scripts.scripts_img2img)
        for script in runner.scripts
        if script.section is not None and script.section not in _UI_CATEGORIES
    }
    return [*_UI_CATEGORIES, *sections, "scripts"]


def callbacks_order_settings() -> dict[str, Any]:
    """Settings that let users order callbacks, one per category with several callbacks."""
    from modules import options, script_callbacks, ui_components

    found = {}
    for category, names in script_callbacks.callback_names_by_category().items():
        if len(names) < 2:
            continue
        found[f"prioritized_callbacks_{category}"] = options.OptionInfo(
            [],
            f"{html.escape(category)} callback priority",
            ui_components.DropdownMulti,
            {"choices": names},
            section=("callbacks", "Callbacks"),
        )
    return found


class Shared(sys.modules[__name__].__class__):
    """Class of `modules.shared`: gives it a model that is loaded at the first access."""

    @property
    def sd_model(self) -> Any:
        """The loaded checkpoint; the first access loads it."""
        import modules.sd_models

        return modules.sd_models.model_data.get_sd_model()

    @sd_model.setter
    def sd_model(self, value: Any) -> None:
        import modules.sd_models

        modules.sd_models.model_data.set_sd_model(value)
