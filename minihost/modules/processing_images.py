"""Picture steps of a generation: masks, overlays, colour correction, decoding."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from modules import devices, images
from modules.sd_samplers_common import decode_first_stage
from PIL import Image
from torch import Tensor, nn

opt_C = 4  # channels of a latent, the WebUI's name
opt_f = 8  # pixels per latent cell

Box = tuple[int, int, int, int]


class DecodedSamples(list):
    """Decoded pictures, each (3, H, W) about [-1, 1]; marks that no decoding is left to do."""

    already_decoded = True


def create_binary_mask(image: Image.Image, round: bool = True) -> Image.Image:
    """Mask `L`: the alpha channel when it is not opaque everywhere, else the brightness.

    Args:
        image: any picture.
        round: make a mask from alpha strictly 0 or 255.
    """
    if image.mode == "RGBA" and image.getextrema()[-1] != (255, 255):
        alpha = image.split()[-1].convert("L")
        return alpha.point(lambda value: 255 if value > 128 else 0) if round else alpha
    return image.convert("L")


def blur_mask(mask: Image.Image, blur_x: float, blur_y: float) -> Image.Image:
    """Gaussian blur with one sigma per axis, in pixels."""
    array = np.array(mask)
    if blur_x > 0:
        array = cv2.GaussianBlur(array, (_kernel(blur_x), 1), blur_x)
    if blur_y > 0:
        array = cv2.GaussianBlur(array, (1, _kernel(blur_y)), blur_y)
    return Image.fromarray(array)


def _kernel(sigma: float) -> int:
    return 2 * int(2.5 * sigma + 0.5) + 1


def uncrop(image: Image.Image, dest_size: tuple[int, int], paste_loc: Box) -> Image.Image:
    """Put a picture back to (x, y, width, height) on a transparent canvas."""
    x, y, width, height = paste_loc
    canvas = Image.new("RGBA", dest_size)
    canvas.paste(images.resize_image(1, image, width, height), (x, y))
    return canvas


def apply_overlay(
    image: Image.Image, paste_loc: Box | None, overlay: Image.Image | None
) -> Image.Image:
    """The kept part of the input over the result."""
    if overlay is None:
        return image
    if paste_loc is not None:
        image = uncrop(image, overlay.size, paste_loc)
    image = image.convert("RGBA")
    image.alpha_composite(overlay)
    return image.convert("RGB")


def decode_latent_batch(
    model: nn.Module,
    batch: Tensor,
    target_device: torch.device | None = None,
    check_for_nans: bool = False,
) -> DecodedSamples:
    """Decode latents (b, 4, h, w) one at a time."""
    samples = DecodedSamples()
    if check_for_nans:
        devices.test_for_nans(batch, "unet")
    for index in range(batch.shape[0]):
        sample = decode_first_stage(model, batch[index : index + 1])[0]
        if check_for_nans:
            devices.test_for_nans(sample, "vae")
        samples.append(sample if target_device is None else sample.to(target_device))
    return samples


def to_tensor(image: Image.Image) -> np.ndarray:
    """Float array (3, H, W) in [0, 1] of an RGB picture."""
    return np.moveaxis(np.array(image).astype(np.float32) / 255.0, 2, 0)


def to_picture(sample: Tensor) -> Image.Image:
    """RGB picture of a tensor (3, H, W) in [0, 1]; fractions are cut as the WebUI does."""
    array = 255.0 * np.moveaxis(sample.cpu().numpy(), 0, 2)
    return Image.fromarray(array.astype(np.uint8))
