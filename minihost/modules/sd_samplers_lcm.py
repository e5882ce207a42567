"""The sampler for models distilled to latent consistency (Luo et al. 2023, arXiv:2310.04378)."""

from __future__ import annotations

from modules import k_denoiser, sd_samplers_cfg_denoiser, sd_samplers_common, shared
from modules.sd_samplers_kdiffusion import KDiffusionSampler
from torch import nn


class CFGDenoiserLCM(sd_samplers_cfg_denoiser.CFGDenoiser):
    """Guidance round the consistency denoiser."""

    @property
    def inner_model(self) -> nn.Module:
        """Wrapper round the U-Net; made again after a model change."""
        if self.model_wrap is None:
            self.model_wrap = k_denoiser.LCMCompVisDenoiser(shared.sd_model)
        return self.model_wrap


class LCMSampler(KDiffusionSampler):
    """`sample_lcm` with its own denoiser."""

    def make_denoiser(self) -> CFGDenoiserLCM:
        """The guided consistency denoiser."""
        return CFGDenoiserLCM(self)


samplers_lcm = [("LCM", "sample_lcm", ["k_lcm"], {})]
samplers_data_lcm = [
    sd_samplers_common.SamplerData(
        label,
        lambda model, funcname=funcname, options=options: LCMSampler(funcname, model, options),
        aliases,
        options,
    )
    for label, funcname, aliases, options in samplers_lcm
]
