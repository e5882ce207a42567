"""The rows of an evaluation, in the order in which A1111's U-Net calls consume them.

The host builds its batch as [image 0's sub-prompts, image 1's, ..., then one uncond row per image]
and calls the U-Net with these rows strictly in that order, in one call or in several.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from lib_controlnet.engine.step import Row, RowLayout, Texts


class A1111Rows:
    """Answers `ports.RowSource`."""

    def read(self, params: Any, needs_texts: bool) -> RowLayout:
        """See `ports.RowSource.read`; `params` are the host's CFGDenoiserParams."""
        images, total = params.text_uncond.shape[0], params.x.shape[0]
        layout = build_layout(_prompts_per_image(params.denoiser), images, total)
        return replace(layout, texts=_texts(params)) if needs_texts and images > 1 else layout


ROWS: Final = A1111Rows()


def build_layout(prompts_per_image: Sequence[int] | None, images: int, total: int) -> RowLayout:
    """Layout of `total` rows for `images` pictures.

    Args:
        prompts_per_image: number of sub-prompts (AND) of each picture, or None if unknown.
        images: pictures in the batch, which is also the number of uncond rows.
        total: rows of the whole evaluation, 3 * images for InstructPix2Pix models.

    A neighbour that rebuilt the batch makes the counts disagree. Then the last `images` rows
    count as uncond and the rows before them are shared out evenly.
    """
    if total == 3 * images and prompts_per_image in (None, [1] * images):
        # InstructPix2Pix: cond, then the negative prompt with and without the picture.
        third = tuple(Row(i, is_cond=False) for i in range(images))
        cond = tuple(Row(i, is_cond=True) for i in range(images))
        return RowLayout(cond + third + third)
    cond_rows = max(total - images, 0)
    if prompts_per_image is None or sum(prompts_per_image) != cond_rows:
        per_image = max(cond_rows / images, 1) if images else 1
        owners = [min(int(r / per_image), images - 1) for r in range(cond_rows)]
    else:
        owners = [i for i, n in enumerate(prompts_per_image) for _ in range(n)]
    cond = tuple(Row(i, is_cond=True) for i in owners)
    return RowLayout(cond + tuple(Row(i, is_cond=False) for i in range(min(images, total))))


def _texts(params: Any) -> Texts:
    """Embeddings of prompts and negative prompts (SDXL keeps them in a dict), and latents."""
    cond, uncond = (
        given["crossattn"] if isinstance(given, Mapping) else given
        for given in (params.text_cond, params.text_uncond)
    )
    return Texts(cond, uncond, params.x)


def _prompts_per_image(denoiser: Any) -> list[int] | None:
    """How many AND sub-prompts each picture has, None if the sampler does not tell."""
    extra = getattr(denoiser.sampler, "sampler_extra_args", None) or {}
    batch = getattr(extra.get("cond"), "batch", None)
    return None if batch is None else [len(prompts) for prompts in batch]
