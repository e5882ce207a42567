"""ControlNet (Zhang et al., arXiv 2302.05543) of the embedded host's modules, for measuring.

The extension has its own implementation; this one shares nothing with it. Key names are those of
the published checkpoints.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from minildm.checkpoint import LoadedCheckpoint
from minildm.unet import TimestepEmbedSequential, UNetModel, timestep_embedding
from torch import Tensor, nn

HINT_LAYERS = ((3, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 96, 2), (96, 96, 1))


def _zero_conv(width: int) -> TimestepEmbedSequential:
    conv = nn.Conv2d(width, width, 1)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return TimestepEmbedSequential(conv)


def _hint_encoder(width: int) -> TimestepEmbedSequential:
    """Eight convolutions, three of them strided.

    Started larger than torch would: with the default a one-pixel edge map fades to nothing.
    """
    layers: list[nn.Module] = []
    for c_in, c_out, stride in (*HINT_LAYERS, (96, 256, 2)):
        conv = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1)
        nn.init.normal_(conv.weight, std=2.2 / (c_in * 9) ** 0.5)
        nn.init.zeros_(conv.bias)
        layers += [conv, nn.SiLU()]
    last = nn.Conv2d(256, width, 3, padding=1)
    nn.init.normal_(last.weight, std=0.5 / (256 * 9) ** 0.5)
    nn.init.zeros_(last.bias)
    return TimestepEmbedSequential(*layers, last)


class ControlNet(nn.Module):
    """Copy of a U-Net's encoder and middle with a hint encoder and zero convolutions."""

    def __init__(self, unet: UNetModel) -> None:
        super().__init__()
        self.model_channels = unet.model_channels
        self.time_embed = copy.deepcopy(unet.time_embed)
        self.input_blocks = copy.deepcopy(unet.input_blocks)
        self.middle_block = copy.deepcopy(unet.middle_block)
        self.requires_grad_(True)
        self.input_hint_block = _hint_encoder(unet.model_channels)
        widths = _block_widths(unet)
        self.zero_convs = nn.ModuleList(_zero_conv(w) for w in widths)
        self.middle_block_out = _zero_conv(widths[-1])

    def guide(self, hint: Tensor) -> Tensor:
        """Features (b, c, h, w) of a control picture (b, 3, 8h, 8w); the same in every step."""
        layers = list(self.input_hint_block)
        return nn.Sequential(*layers)(hint)

    def forward(
        self, x: Tensor, guided_hint: Tensor, timesteps: Tensor, context: Tensor
    ) -> list[Tensor]:
        """Residuals, one for each skip and the middle.

        Args:
            x: noisy latent (b, 4, h, w).
            guided_hint: result of `guide`, (b, c, h, w).
            timesteps: (b,).
            context: text tokens (b, n, d).
        """
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels).to(x.dtype))
        residuals = []
        h = x
        for i, (block, zero_conv) in enumerate(
            zip(self.input_blocks, self.zero_convs, strict=True)
        ):
            h = block(h, emb, context)
            if i == 0:
                h = h + guided_hint
            residuals.append(zero_conv(h, emb, context))
        h = self.middle_block(h, emb, context)
        return [*residuals, self.middle_block_out(h, emb, context)]


def controlled_forward(
    unet: UNetModel, x: Tensor, timesteps: Tensor, context: Tensor, residuals: list[Tensor]
) -> Tensor:
    """U-Net prediction (b, 4, h, w) with the residuals added to middle and skips."""
    residuals = list(residuals)
    emb = unet.time_embed(timestep_embedding(timesteps, unet.model_channels).to(x.dtype))
    with torch.no_grad():
        h = x
        skips = []
        for block in unet.input_blocks:
            h = block(h, emb, context)
            skips.append(h)
        h = unet.middle_block(h, emb, context)
    h = h + residuals.pop()
    for block in unet.output_blocks:
        h = block(torch.cat([h, skips.pop() + residuals.pop()], dim=1), emb, context)
    return unet.out(h)


def controlled(base: LoadedCheckpoint, control: ControlNet, hints: Tensor) -> object:
    """Noise prediction under control, for `sampling.sample`; hints (b, 3, s, s)."""
    with torch.no_grad():
        guided = control.guide(hints)
    both = torch.cat([guided, guided])

    def predict(x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        residuals = control(x, both, timesteps, context)
        return controlled_forward(base.unet, x, timesteps, context, residuals)

    return predict


def hint_tensor(hint: np.ndarray) -> Tensor:
    """Hint (s, s, 3) as float (3, s, s)."""
    return torch.from_numpy(np.ascontiguousarray(hint.transpose(2, 0, 1))).float()


def _block_widths(unet: UNetModel) -> list[int]:
    first = unet.model_channels
    widths = []
    for block in unet.input_blocks:
        first = getattr(block[0], "out_channels", first)
        widths.append(first)
    return widths
