"""The list of samplers, and looking them up by name."""

from __future__ import annotations

import logging

from modules import (
    sd_samplers_common,
    sd_samplers_kdiffusion,
    sd_samplers_timesteps,
    sd_schedulers,
)
from modules.sd_samplers_common import (  # noqa: F401 (callers take them from here)
    sample_to_image,
    samples_to_image_grid,
)
from torch import nn

log = logging.getLogger(__name__)

all_samplers: list[sd_samplers_common.SamplerData] = [
    *sd_samplers_kdiffusion.samplers_data_k_diffusion,
    *sd_samplers_timesteps.samplers_data_timesteps,
    *sd_samplers_kdiffusion.samplers_data_lcm,
]
all_samplers_map = {item.name: item for item in all_samplers}
samplers = samplers_for_img2img = all_samplers


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


def fix_p_invalid_sampler_and_scheduler(p: object) -> None:
    """Replace names that `p` got from old callers."""
    before = (p.sampler_name, p.scheduler)
    p.sampler_name, p.scheduler = get_sampler_and_scheduler(
        p.sampler_name, p.scheduler, convert_automatic=False
    )
    if before != (p.sampler_name, p.scheduler):
        log.warning("sampler and schedule %s taken as %s", before, (p.sampler_name, p.scheduler))
