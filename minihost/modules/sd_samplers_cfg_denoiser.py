"""Classifier-free guidance: builds the rows of each evaluation and combines the results."""

from __future__ import annotations

from collections.abc import Callable

import torch
from modules import prompt_parser, sd_samplers_common, shared
from modules.script_callbacks import (
    AfterCFGCallbackParams,
    CFGDenoisedParams,
    CFGDenoiserParams,
    cfg_after_cfg_callback,
    cfg_denoised_callback,
    cfg_denoiser_callback,
)
from modules.scripts import MaskBlendArgs
from modules.shared import opts, state
from torch import Tensor, nn

Cond = Tensor | prompt_parser.DictWithShape
CondsList = list[list[tuple[int, float]]]


def catenate_conds(conds: list[Cond]) -> Cond:
    """Rows of all conditions."""
    if not isinstance(conds[0], dict):
        return torch.cat(conds)
    return prompt_parser.DictWithShape(
        {key: torch.cat([cond[key] for cond in conds]) for key in conds[0]}
    )


def subscript_cond(cond: Cond, a: int, b: int) -> Cond:
    """Rows a to b."""
    if not isinstance(cond, dict):
        return cond[a:b]
    return prompt_parser.DictWithShape({key: value[a:b] for key, value in cond.items()})


def pad_cond(tensor: Cond, repeats: int, empty: Tensor) -> Cond:
    """Add `repeats` blocks of the empty prompt (1, 77, width) to every row."""
    if isinstance(tensor, dict):
        tensor["crossattn"] = pad_cond(tensor["crossattn"], repeats, empty)
        return tensor
    return torch.cat([tensor, empty.repeat(tensor.shape[0], repeats, 1)], dim=1)


class CFGDenoiser(nn.Module):
    """Denoiser with guidance that sampling functions call.

    Args:
        sampler: the owner; holds the conditions of the current run.
    """

    def __init__(self, sampler: sd_samplers_common.Sampler) -> None:
        super().__init__()
        self.model_wrap: nn.Module | None = None
        self.mask: Tensor | None = None
        self.nmask: Tensor | None = None
        self.init_latent: Tensor | None = None
        self.steps: int | None = None
        self.total_steps: int | None = None
        self.step = 0
        self.image_cfg_scale: float | None = None
        self.padded_cond_uncond = False
        self.sampler = sampler
        self.p: object = None
        self.cond_scale_miltiplier = 1.0
        # True: keep the masked-out area by changing the input, not the result.
        self.mask_before_denoising = False

    @property
    def inner_model(self) -> nn.Module:
        """The wrapper round the U-Net; made again after a model change."""
        if self.model_wrap is None:
            self.model_wrap = self.wrap(shared.sd_model)
        return self.model_wrap

    def combine_denoised(
        self, x_out: Tensor, conds_list: CondsList, uncond: Cond, cond_scale: float
    ) -> Tensor:
        """uncond + sum of weight * scale * (cond - uncond) for every picture (B, ...)."""
        denoised_uncond = x_out[-uncond.shape[0] :]
        denoised = torch.clone(denoised_uncond)
        for i, conds in enumerate(conds_list):
            for cond_index, weight in conds:
                difference = x_out[cond_index] - denoised_uncond[i]
                denoised[i] += difference * (weight * cond_scale)
        return denoised

    def combine_denoised_for_edit_model(self, x_out: Tensor, cond_scale: float) -> Tensor:
        """Guidance by text and by picture (Brooks et al. 2023, arXiv:2211.09800)."""
        out_cond, out_img_cond, out_uncond = x_out.chunk(3)
        by_text = cond_scale * (out_cond - out_img_cond)
        return out_uncond + by_text + self.image_cfg_scale * (out_img_cond - out_uncond)

    def get_pred_x0(self, x_in: Tensor, x_out: Tensor, sigma: Tensor) -> Tensor:
        """The clean latent that a result stands for."""
        del x_in, sigma
        return x_out

    def update_inner_model(self) -> None:
        """After a change of checkpoint in the middle of a run."""
        self.model_wrap = None
        c, uc = self.p.get_conds()
        self.sampler.sampler_extra_args["cond"] = c
        self.sampler.sampler_extra_args["uncond"] = uc

    # ---- prompt lengths ----

    def pad_cond_uncond(self, cond: Cond, uncond: Cond) -> tuple[Cond, Cond]:
        """Make both equally long with blocks of the empty prompt."""
        empty = shared.sd_model.cond_stage_model_empty_prompt
        missing = (cond.shape[1] - uncond.shape[1]) // empty.shape[1]
        if missing < 0:
            cond = pad_cond(cond, -missing, empty)
        elif missing > 0:
            uncond = pad_cond(uncond, missing, empty)
        self.padded_cond_uncond = self.padded_cond_uncond or missing != 0
        return cond, uncond

    # ---- one evaluation ----

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        uncond: list,
        cond: prompt_parser.MulticondLearnedConditioning,
        cond_scale: float,
        s_min_uncond: float,
        image_cond: Tensor,
    ) -> Tensor:
        """Guided result (B, c, h, w).

        Args:
            x: latents (B, c, h, w).
            sigma: noise levels (timesteps for timestep samplers), (B,).
            uncond: negative conditions with their schedules.
            cond: conditions with their schedules and AND parts.
            cond_scale: guidance scale.
            s_min_uncond: below this noise level every second evaluation leaves uncond out.
            image_cond: conditioning latents of inpainting models, (B, 5, h, w) or (B, 5, 1, 1).
        """
        if state.interrupted or state.skipped:
            raise sd_samplers_common.InterruptedException
        if sd_samplers_common.apply_refiner(self, sigma):
            cond = self.sampler.sampler_extra_args["cond"]
            uncond = self.sampler.sampler_extra_args["uncond"]

        is_edit = self._is_edit()
        conds_list, tensor = prompt_parser.reconstruct_multicond_batch(cond, self.step)
        uncond = prompt_parser.reconstruct_cond_batch(uncond, self.step)
        if is_edit and not all(len(conds) == 1 for conds in conds_list):
            msg = "AND is not supported for models that edit pictures by instruction"
            raise ValueError(msg)
        if self.mask_before_denoising and self.mask is not None:
            x = self.apply_blend(x, sigma)

        rows = _rows(x, sigma, image_cond, conds_list, is_edit)
        (x_in, sigma_in, image_cond_in), tensor, uncond = self._ask_callbacks(rows, tensor, uncond)
        skip_uncond = self._skips_uncond(sigma, s_min_uncond, is_edit)
        if skip_uncond:
            x_in, sigma_in = x_in[: -x.shape[0]], sigma_in[: -x.shape[0]]
        tensor, uncond = self._padded(tensor, uncond)
        x_out = self._evaluate(
            (x_in, sigma_in, image_cond_in), tensor, uncond, x.shape[0], (skip_uncond, is_edit)
        )
        first_rows = [conds[0][0] for conds in conds_list]
        if skip_uncond:
            x_out = torch.cat([x_out, x_out[first_rows]])
        denoised = self._combine(x_out, conds_list, uncond, cond_scale, (skip_uncond, is_edit))
        if not self.mask_before_denoising and self.mask is not None:
            denoised = self.apply_blend(denoised, sigma)

        self.sampler.last_latent = self.get_pred_x0(x_in[first_rows], x_out[first_rows], sigma)
        sd_samplers_common.store_latent(self.sampler.last_latent)
        after = AfterCFGCallbackParams(denoised, state.sampling_step, state.sampling_steps)
        cfg_after_cfg_callback(after)
        self.step += 1
        return after.x

    def _is_edit(self) -> bool:
        by_instruction = shared.sd_model.cond_stage_key == "edit"
        return by_instruction and self.image_cfg_scale not in (None, 1.0)

    def _ask_callbacks(
        self, rows: tuple[Tensor, Tensor, Tensor], tensor: Cond, uncond: Cond
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Cond, Cond]:
        """Run `on_cfg_denoiser`; everything it was given may come back changed."""
        x_in, sigma_in, image_cond_in = rows
        params = CFGDenoiserParams(
            x_in,
            image_cond_in,
            sigma_in,
            state.sampling_step,
            state.sampling_steps,
            tensor,
            uncond,
            self,
        )
        cfg_denoiser_callback(params)
        rows = (params.x, params.sigma, params.image_cond)
        return rows, params.text_cond, params.text_uncond

    def _combine(
        self,
        x_out: Tensor,
        conds_list: CondsList,
        uncond: Cond,
        cond_scale: float,
        flags: tuple[bool, bool],
    ) -> Tensor:
        """Run `on_cfg_denoised`, then apply the guidance."""
        skip_uncond, is_edit = flags
        cfg_denoised_callback(
            CFGDenoisedParams(x_out, state.sampling_step, state.sampling_steps, self.inner_model)
        )
        scale = cond_scale * self.cond_scale_miltiplier
        if is_edit:
            return self.combine_denoised_for_edit_model(x_out, scale)
        return self.combine_denoised(x_out, conds_list, uncond, 1.0 if skip_uncond else scale)

    def apply_blend(self, current_latent: Tensor, sigma: Tensor) -> Tensor:
        """Keep the picture outside the inpaint mask; scripts may blend differently."""
        blended = current_latent * self.nmask + self.init_latent * self.mask
        if self.p.scripts is None:
            return blended
        args = MaskBlendArgs(
            current_latent, self.nmask, self.init_latent, self.mask, blended, self, sigma
        )
        self.p.scripts.on_mask_blend(self.p, args)
        return args.blended_latent

    def _skips_uncond(self, sigma: Tensor, s_min_uncond: float, is_edit: bool) -> bool:
        early = opts.skip_early_cond
        if early != 0.0 and self.step / self.total_steps <= early:
            self.p.extra_generation_params["Skip Early CFG"] = early
            return True
        if self.step % 2 and s_min_uncond > 0 and sigma[0] < s_min_uncond and not is_edit:
            self.p.extra_generation_params["NGMS"] = s_min_uncond
            return True
        return False

    def _padded(self, tensor: Cond, uncond: Cond) -> tuple[Cond, Cond]:
        self.padded_cond_uncond = False
        if tensor.shape[1] != uncond.shape[1] and opts.pad_cond_uncond:
            return self.pad_cond_uncond(tensor, uncond)
        return tensor, uncond

    def _evaluate(
        self,
        rows: tuple[Tensor, Tensor, Tensor],
        tensor: Cond,
        uncond: Cond,
        batch_size: int,
        flags: tuple[bool, bool],
    ) -> Tensor:
        """Call the U-Net for all rows, in one or several calls, in the order of the rows."""
        x_in, sigma_in, image_cond_in = rows
        skip_uncond, is_edit = flags

        def call(a: int, b: int, text: Cond) -> Tensor:
            condition = _condition_dict(text, image_cond_in[a:b])
            return self.inner_model(x_in[a:b], sigma_in[a:b], cond=condition)

        total = x_in.shape[0]
        if tensor.shape[1] == uncond.shape[1] or skip_uncond:
            if is_edit:
                text = catenate_conds([tensor, uncond, uncond])
            else:
                text = tensor if skip_uncond else catenate_conds([tensor, uncond])
            if opts.batch_cond_uncond:
                return call(0, total, text)
            return _in_chunks(
                total, batch_size, lambda a, b: call(a, b, subscript_cond(text, a, b))
            )

        chunk = batch_size * 2 if opts.batch_cond_uncond else batch_size
        cond_rows = tensor.shape[0]
        conds = _in_chunks(cond_rows, chunk, lambda a, b: call(a, b, subscript_cond(tensor, a, b)))
        unconds = call(total - uncond.shape[0], total, uncond)
        return torch.cat([conds, unconds])


def _rows(
    x: Tensor, sigma: Tensor, image_cond: Tensor, conds_list: CondsList, is_edit: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Every picture as often as it has AND parts, then all pictures once for uncond."""
    repeats = torch.tensor([len(conds) for conds in conds_list], device=x.device)

    def build(item: Tensor) -> Tensor:
        parts = [torch.repeat_interleave(item, repeats.to(item.device), dim=0), item]
        return torch.cat([*parts, item] if is_edit else parts)

    if not is_edit:
        return build(x), build(sigma), build(image_cond)
    image_rows = torch.cat([image_cond, image_cond, torch.zeros_like(image_cond)])
    return build(x), build(sigma), image_rows


def _in_chunks(rows: int, size: int, call: Callable[[int, int], Tensor]) -> Tensor:
    ends = [(a, min(a + size, rows)) for a in range(0, rows, size)]
    return torch.cat([call(a, b) for a, b in ends])


def _condition_dict(text: Cond, image_cond: Tensor) -> dict:
    if isinstance(text, dict):
        return {**text, "c_concat": [image_cond]}
    return {"c_crossattn": [text], "c_concat": [image_cond]}
