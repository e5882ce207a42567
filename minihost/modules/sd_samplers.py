"""The list of samplers, and looking them up by name."""

from __future__ import annotations

import logging

from modules import (
    sd_samplers_common,
    sd_samplers_kdiffusion,
    sd_samplers_lcm,
    sd_samplers_timesteps,
    sd_schedulers,
    shared,
)
from modules.sd_samplers_common import sample_to_image, samples_to_image_grid
from torch import nn

log = logging.getLogger(__name__)

all_samplers: list[sd_samplers_common.SamplerData] = [
    *sd_samplers_kdiffusion.samplers_data_k_diffusion,
    *sd_samplers_timesteps.samplers_data_timesteps,
    *sd_samplers_lcm.samplers_data_lcm,
]
all_samplers_map = {item.name: item for item in all_samplers}

samplers: list[sd_samplers_common.SamplerData] = []
samplers_for_img2img: list[sd_samplers_common.SamplerData] = []
samplers_map: dict[str, str] = {}
samplers_hidden: set[str] = set()


def find_sampler_config(name: str | None) -> sd_samplers_common.SamplerData | None:
    """The list entry of a name, the first entry for None."""
    return all_samplers[0] if name is None else all_samplers_map.get(name)


def create_sampler(name: str | None, model: nn.Module) -> sd_samplers_common.Sampler:
    """A sampler for one run.

    Raises:
        ValueError: there is no sampler of that name.
    """
    config = find_sampler_config(name)
    if config is None:
        msg = f"sampler '{name}' is not known; expected one of: {', '.join(all_samplers_map)}"
        raise ValueError(msg)
    sampler = config.constructor(model)
    sampler.config = config
    return sampler


def set_samplers() -> None:
    """Apply the setting that hides samplers, and build the table of aliases."""
    samplers_hidden.clear()
    samplers_hidden.update(shared.opts.hide_samplers)
    samplers[:] = all_samplers
    samplers_for_img2img[:] = all_samplers
    samplers_map.clear()
    for sampler in all_samplers:
        for name in (sampler.name, *sampler.aliases):
            samplers_map[name.lower()] = sampler.name


def add_sampler(sampler: sd_samplers_common.SamplerData) -> None:
    """Add an extension's sampler."""
    if sampler.name not in all_samplers_map:
        all_samplers.append(sampler)
        all_samplers_map[sampler.name] = sampler
        set_samplers()


def visible_sampler_names() -> list[str]:
    """Names that the page offers."""
    return [item.name for item in samplers if item.name not in samplers_hidden]


def visible_samplers() -> list[sd_samplers_common.SamplerData]:
    """Samplers that the page offers."""
    return [item for item in samplers if item.name not in samplers_hidden]


def get_sampler_and_scheduler(
    sampler_name: str | None, scheduler_name: str | None, *, convert_automatic: bool = True
) -> tuple[str, str]:
    """(sampler, schedule label); takes old names such as "DPM++ 2M Karras" apart."""
    default_sampler, automatic = samplers[0], sd_schedulers.schedulers[0]
    scheduler = sd_schedulers.schedulers_map.get(scheduler_name, automatic)
    name = sampler_name or default_sampler.name
    for candidate in sd_schedulers.schedulers:
        for option in (candidate.label, candidate.name, *(candidate.aliases or [])):
            if name.endswith(" " + option):
                scheduler = candidate
                name = name[: -len(option) - 1]
                break
    sampler = all_samplers_map.get(name, default_sampler)
    if convert_automatic and sampler.options.get("scheduler") == scheduler.name:
        scheduler = automatic
    return sampler.name, scheduler.label


def get_sampler_from_infotext(d: dict) -> str:
    """Sampler named in parsed generation parameters."""
    return get_sampler_and_scheduler(d.get("Sampler"), d.get("Schedule type"))[0]


def get_scheduler_from_infotext(d: dict) -> str:
    """Schedule named in parsed generation parameters."""
    return get_sampler_and_scheduler(d.get("Sampler"), d.get("Schedule type"))[1]


def get_hr_sampler_and_scheduler(d: dict) -> tuple[str, str]:
    """Sampler and schedule of the hires pass, "Use same ..." where they equal the first pass."""
    hr_sampler = d.get("Hires sampler", "Use same sampler")
    sampler = d.get("Sampler") if hr_sampler == "Use same sampler" else hr_sampler
    hr_scheduler = d.get("Hires schedule type", "Use same scheduler")
    scheduler = d.get("Schedule type") if hr_scheduler == "Use same scheduler" else hr_scheduler
    sampler, scheduler = get_sampler_and_scheduler(sampler, scheduler)
    same_sampler = sampler == d.get("Sampler") or hr_sampler == "Use same sampler"
    same_scheduler = scheduler == d.get("Schedule type") or hr_scheduler == "Use same scheduler"
    return (
        "Use same sampler" if same_sampler else sampler,
        "Use same scheduler" if same_scheduler else scheduler,
    )


def get_hr_sampler_from_infotext(d: dict) -> str:
    """Sampler of the hires pass."""
    return get_hr_sampler_and_scheduler(d)[0]


def get_hr_scheduler_from_infotext(d: dict) -> str:
    """Schedule of the hires pass."""
    return get_hr_sampler_and_scheduler(d)[1]


def fix_p_invalid_sampler_and_scheduler(p: object) -> None:
    """Replace names that `p` got from old callers."""
    before = (p.sampler_name, p.scheduler)
    p.sampler_name, p.scheduler = get_sampler_and_scheduler(
        p.sampler_name, p.scheduler, convert_automatic=False
    )
    if before != (p.sampler_name, p.scheduler):
        log.warning("sampler and schedule %s taken as %s", before, (p.sampler_name, p.scheduler))


set_samplers()

__all__ = [
    "all_samplers",
    "all_samplers_map",
    "create_sampler",
    "find_sampler_config",
    "fix_p_invalid_sampler_and_scheduler",
    "sample_to_image",
    "samples_to_image_grid",
    "samplers",
    "samplers_for_img2img",
    "samplers_map",
    "set_samplers",
    "visible_sampler_names",
]
