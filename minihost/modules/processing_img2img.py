"""img2img: pictures from a picture; inpainting of a masked part."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from modules import devices, images, masking, sd_samplers, sd_samplers_common
from modules.processing_base import (
    StableDiffusionProcessing,
    _run_time,
    as_float_tensor,
    create_random_tensors,
)
from modules.processing_images import (
    blur_mask,
    create_binary_mask,
    opt_f,
    to_tensor,
)
from modules.scripts import MaskBlendArgs
from modules.sd_hijack import model_hijack
from modules.shared import opts
from PIL import Image, ImageOps
from torch import Tensor

log = logging.getLogger(__name__)

BLANK_MASK = 'Unable to perform "Inpaint Only mask" because mask is blank, switch to img2img mode.'
FILL, ORIGINAL, LATENT_NOISE, LATENT_NOTHING = range(4)
LATENT_RESIZE = 3


@dataclass(repr=False)
class StableDiffusionProcessingImg2Img(StableDiffusionProcessing):
    """One img2img job; `mask` as an argument becomes `image_mask`."""

    init_images: list | None = None
    resize_mode: int = 0
    denoising_strength: float = 0.75
    image_cfg_scale: float | None = None
    mask: Any = None
    mask_blur_x: int = 4
    mask_blur_y: int = 4
    mask_blur: int | None = None
    mask_round: bool = True
    inpainting_fill: int = 0
    inpaint_full_res: bool = True
    inpaint_full_res_padding: int = 0
    inpainting_mask_invert: int = 0

    image_mask: Any = _run_time()
    nmask: Tensor | None = _run_time()
    image_conditioning: Tensor | None = _run_time()
    mask_for_overlay: Image.Image | None = _run_time()
    init_latent: Tensor | None = _run_time()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.image_mask = self.mask
        self.mask = None

    @property
    def mask_blur(self) -> int | None:  # noqa: F811 - replaces the field's default
        """Blur of both axes; None when they differ."""
        return self.mask_blur_x if self.mask_blur_x == self.mask_blur_y else None

    @mask_blur.setter
    def mask_blur(self, value: Any) -> None:
        if isinstance(value, int):
            self.mask_blur_x = value
            self.mask_blur_y = value

    def init(self, all_prompts: list[str], all_seeds: list[int], all_subseeds: list[int]) -> None:
        """Masks, crop, resized inputs and their latents."""
        del all_prompts, all_subseeds
        self.extra_generation_params["Denoising strength"] = self.denoising_strength
        if self.sd_model.cond_stage_key != "edit":
            self.image_cfg_scale = None
        self.sampler = sd_samplers.create_sampler(self.sampler_name, self.sd_model)

        crop_region, image_mask = self._prepare_mask()
        arrays = [
            to_tensor(self._prepare_picture(img, crop_region, image_mask))
            for img in self.init_images
        ]
        image = as_float_tensor(self._batch(arrays))
        self.init_latent = sd_samplers_common.images_tensor_to_samples(image, 0, self.sd_model)
        devices.torch_gc()
        if self.resize_mode == LATENT_RESIZE:
            size = (self.height // opt_f, self.width // opt_f)
            self.init_latent = F.interpolate(self.init_latent, size=size, mode="bilinear")
        if image_mask is not None:
            self._prepare_latent_mask(image_mask, all_seeds)
        self.image_conditioning = self.img2img_image_conditioning(
            image * 2 - 1, self.init_latent, image_mask, self.mask_round
        )

    # ---- steps of init ----

    def _prepare_mask(self) -> tuple[masking.Region | None, Image.Image | None]:
        """(crop in mask pixels or None, mask at the processed size or None)."""
        if self.image_mask is None:
            return None, None
        info = self.extra_generation_params
        mask = create_binary_mask(self.image_mask, round=self.mask_round)
        if self.inpainting_mask_invert:
            mask = ImageOps.invert(mask)
            info["Mask mode"] = "Inpaint not masked"
        mask = blur_mask(mask, self.mask_blur_x, self.mask_blur_y)
        if self.mask_blur_x > 0 or self.mask_blur_y > 0:
            info["Mask blur"] = self.mask_blur
        self.overlay_images = []
        if self.inpaint_full_res:
            return self._prepare_only_masked(mask)
        mask = images.resize_image(self.resize_mode, mask, self.width, self.height)
        doubled = np.clip(np.array(mask).astype(np.float32) * 2, 0, 255).astype(np.uint8)
        self.mask_for_overlay = Image.fromarray(doubled)
        return None, mask

    def _prepare_only_masked(
        self, mask: Image.Image
    ) -> tuple[masking.Region | None, Image.Image | None]:
        self.mask_for_overlay = mask
        grey = mask.convert("L")
        found = masking.get_crop_region_v2(grey, self.inpaint_full_res_padding)
        if not found:
            self.mask_for_overlay = None
            self.inpaint_full_res = False
            model_hijack.comments.append(BLANK_MASK)
            log.info(BLANK_MASK)
            return None, None
        region = masking.expand_crop_region(found, self.width, self.height, grey.width, grey.height)
        x1, y1, x2, y2 = region
        self.paste_to = (x1, y1, x2 - x1, y2 - y1)
        self.extra_generation_params["Inpaint area"] = "Only masked"
        self.extra_generation_params["Masked area padding"] = self.inpaint_full_res_padding
        return region, images.resize_image(2, grey.crop(region), self.width, self.height)

    def _prepare_picture(
        self,
        img: Image.Image,
        crop_region: masking.Region | None,
        image_mask: Image.Image | None,
    ) -> Image.Image:
        """One input as the VAE is to see it; its overlay is kept."""
        image = images.flatten(img, opts.img2img_background_color)
        if crop_region is None and self.resize_mode != LATENT_RESIZE:
            image = images.resize_image(self.resize_mode, image, self.width, self.height)
        if image_mask is not None:
            if self.mask_for_overlay.size != image.size:
                self.mask_for_overlay = images.resize_image(
                    self.resize_mode, self.mask_for_overlay, image.width, image.height
                )
            kept = Image.new("RGBa", image.size)
            outside = ImageOps.invert(self.mask_for_overlay.convert("L"))
            kept.paste(image.convert("RGBA").convert("RGBa"), mask=outside)
            self.overlay_images.append(kept.convert("RGBA"))
        if crop_region is not None:
            image = images.resize_image(2, image.crop(crop_region), self.width, self.height)
        if image_mask is not None and self.inpainting_fill != ORIGINAL:
            image = masking.fill(image, image_mask)
            if self.inpainting_fill == FILL:
                self.extra_generation_params["Masked content"] = "fill"
        return image

    def _batch(self, arrays: list[np.ndarray]) -> np.ndarray:
        if len(arrays) == 1:
            if self.overlay_images is not None:
                self.overlay_images = self.overlay_images * self.batch_size
            return np.expand_dims(arrays[0], axis=0).repeat(self.batch_size, axis=0)
        if len(arrays) > self.batch_size:
            msg = f"bad number of images passed: {len(arrays)}; expecting {self.batch_size} or less"
            raise RuntimeError(msg)
        self.batch_size = len(arrays)
        return np.array(arrays)

    def _prepare_latent_mask(self, image_mask: Image.Image, all_seeds: list[int]) -> None:
        channels, height, width = self.init_latent.shape[1:]
        small = image_mask.convert("RGB").resize((width, height))
        array = np.array(small, dtype=np.float32)[..., 0] / 255
        if self.mask_round:
            array = np.around(array)
        array = np.tile(array[None], (channels, 1, 1))
        self.mask = torch.asarray(1.0 - array).to(devices.device).type(devices.dtype)
        self.nmask = torch.asarray(array).to(devices.device).type(devices.dtype)
        if self.inpainting_fill == LATENT_NOISE:
            seeds = all_seeds[: self.init_latent.shape[0]]
            noise = create_random_tensors(self.init_latent.shape[1:], seeds)
            self.init_latent = self.init_latent * self.mask + noise * self.nmask
            self.extra_generation_params["Masked content"] = "latent noise"
        elif self.inpainting_fill == LATENT_NOTHING:
            self.init_latent = self.init_latent * self.mask
            self.extra_generation_params["Masked content"] = "latent nothing"

    # ---- sampling ----

    def sample(
        self,
        conditioning: Any,
        unconditional_conditioning: Any,
        seeds: list[int],
        subseeds: list[int],
        subseed_strength: float,
        prompts: list[str],
    ) -> Tensor:
        """Latents (b, 4, h, w)."""
        del seeds, subseeds, subseed_strength, prompts
        x = self.rng.next()
        if self.scripts is not None:
            self.scripts.process_before_every_sampling(
                p=self,
                x=self.init_latent,
                noise=x,
                c=conditioning,
                uc=unconditional_conditioning,
            )
        samples = self.sampler.sample_img2img(
            self,
            self.init_latent,
            x,
            conditioning,
            unconditional_conditioning,
            image_conditioning=self.image_conditioning,
        )
        if self.mask is not None:
            blended = samples * self.nmask + self.init_latent * self.mask
            if self.scripts is not None:
                args = MaskBlendArgs(samples, self.nmask, self.init_latent, self.mask, blended)
                self.scripts.on_mask_blend(self, args)
                blended = args.blended_latent
            samples = blended
        devices.torch_gc()
        return samples
