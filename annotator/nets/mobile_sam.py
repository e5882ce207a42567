"""MobileSAM: from a picture and a point to three masks and how good each one is.

Kirillov et al., "Segment Anything", ICCV 2023, arXiv:2304.02643, with the small encoder of Zhang
et al., "Faster Segment Anything", arXiv:2306.14289. Key names of the published file; only what a
point needs is here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ._load import fill
from .tiny_vit import LayerNorm2d, TinyViT

WIDTH = 256
HEADS = 8
MASKS = 3
POSITIVE = 1  # number of the embedding of a point that lies inside
_UNUSED = (
    *("image_encoder.norm_head.", "image_encoder.head."),
    "prompt_encoder.mask_downscaling.",
    *(f"prompt_encoder.point_embeddings.{i}." for i in (0, 2, 3)),
)


class Attention(nn.Module):
    """Attention of some tokens to others, (b or 1, tokens, width), at a share of their width."""

    def __init__(self, inner: int = WIDTH // 2) -> None:
        super().__init__()
        self.q_proj = nn.Linear(WIDTH, inner)
        self.k_proj = nn.Linear(WIDTH, inner)
        self.v_proj = nn.Linear(WIDTH, inner)
        self.out_proj = nn.Linear(inner, WIDTH)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        count = max(len(q), len(k))
        heads = (  # what all prompts share is projected once
            rearrange(projection(x), "b n (heads c) -> b heads n c", heads=HEADS).expand(
                count, -1, -1, -1
            )
            for projection, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        mixed = F.scaled_dot_product_attention(*heads)
        return self.out_proj(rearrange(mixed, "b heads n c -> b n (heads c)"))


class Mlp(nn.Module):
    """Two layers with a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.lin1 = nn.Linear(WIDTH, WIDTH * 8)
        self.lin2 = nn.Linear(WIDTH * 8, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(F.relu(self.lin1(x)))


class TwoWayBlock(nn.Module):
    """Tokens attend to themselves and to the picture, then the picture to the tokens."""

    def __init__(self, is_first: bool) -> None:
        super().__init__()
        self.is_first = is_first
        self.self_attn = Attention(WIDTH)
        self.norm1 = nn.LayerNorm(WIDTH)
        self.cross_attn_token_to_image = Attention()
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = Mlp()
        self.norm3 = nn.LayerNorm(WIDTH)
        self.norm4 = nn.LayerNorm(WIDTH)
        self.cross_attn_image_to_token = Attention()

    def forward(
        self, tokens: Tensor, image: Tensor, token_places: Tensor, image_places: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.is_first:
            tokens = self.norm1(self.self_attn(tokens, tokens, tokens))
        else:
            placed = tokens + token_places
            tokens = self.norm1(tokens + self.self_attn(placed, placed, tokens))
        cells = image + image_places
        seen = self.cross_attn_token_to_image(tokens + token_places, cells, image)
        tokens = self.norm2(tokens + seen)
        tokens = self.norm3(tokens + self.mlp(tokens))
        seen = self.cross_attn_image_to_token(cells, tokens + token_places, tokens)
        return tokens, self.norm4(image + seen)


class TwoWayTransformer(nn.Module):
    """Lets tokens (b, tokens, width) and picture (1, cells, width) inform each other."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(is_first) for is_first in (True, False))
        self.final_attn_token_to_image = Attention()
        self.norm_final_attn = nn.LayerNorm(WIDTH)

    def forward(self, image: Tensor, places: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        given = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, given, places)
        seen = self.final_attn_token_to_image(tokens + given, image + places, image)
        return self.norm_final_attn(tokens + seen), image


class Head(nn.Module):
    """Three layers with ReLUs between them."""

    def __init__(self, made: int) -> None:
        super().__init__()
        widths = (WIDTH, WIDTH, WIDTH, made)
        self.layers = nn.ModuleList(
            nn.Linear(given, out) for given, out in zip(widths[:-1], widths[1:], strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class MaskDecoder(nn.Module):
    """Features and prompts to masks at four times the features' size."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer()
        self.iou_token = nn.Embedding(1, WIDTH)
        self.mask_tokens = nn.Embedding(MASKS + 1, WIDTH)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(WIDTH, WIDTH // 4, 2, 2),
            LayerNorm2d(WIDTH // 4),
            nn.GELU(),
            nn.ConvTranspose2d(WIDTH // 4, WIDTH // 8, 2, 2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(Head(WIDTH // 8) for _ in range(MASKS + 1))
        self.iou_prediction_head = Head(MASKS + 1)

    def forward(self, features: Tensor, places: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Masks and their quality for each prompt.

        Args:
            features: (1, 256, h, w) with what stands for "no mask given" added.
            places: (1, 256, h, w), position encoding of the cells.
            prompts: (b, tokens, 256).

        Returns:
            Mask logits (b, 3, 4h, 4w) and predicted intersection over union (b, 3). The fourth
            mask, the first in the file, is for prompts that leave no doubt.
        """
        count, height = len(prompts), features.shape[2]
        own = torch.cat((self.iou_token.weight, self.mask_tokens.weight))
        tokens = torch.cat((own.expand(count, -1, -1), prompts), dim=1)
        cells, places = (rearrange(x, "b c h w -> b (h w) c") for x in (features, places))
        tokens, cells = self.transformer(cells, places, tokens)
        image = self.output_upscaling(rearrange(cells, "b (h w) c -> b c h w", h=height))
        shapes = torch.stack(
            [self.output_hypernetworks_mlps[i](tokens[:, i + 1]) for i in range(1, MASKS + 1)],
            dim=1,
        )
        masks = torch.einsum("bmc,bchw->bmhw", shapes, image)
        return masks, self.iou_prediction_head(tokens[:, 0])[:, 1:]


class PlaceEncoding(nn.Module):
    """Sines of random projections of a place."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.empty(2, WIDTH // 2))

    def forward(self, places: Tensor) -> Tensor:
        """(..., 2), x and y as shares of the picture's sides, to (..., 256)."""
        angles = 2 * math.pi * ((2 * places - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat((angles.sin(), angles.cos()), dim=-1)


class PromptEncoder(nn.Module):
    """Embeddings of points, and of there being no mask."""

    def __init__(self) -> None:
        super().__init__()
        self.pe_layer = PlaceEncoding()
        self.point_embeddings = nn.ModuleDict({str(POSITIVE): nn.Embedding(1, WIDTH)})
        self.not_a_point_embed = nn.Embedding(1, WIDTH)
        self.no_mask_embed = nn.Embedding(1, WIDTH)

    def forward(self, points: Tensor) -> Tensor:
        """Tokens (b, 2, 256) of points (b, 2), x and y as shares of the sides, each inside."""
        point = self.pe_layer(points) + self.point_embeddings[str(POSITIVE)].weight
        return torch.stack((point, self.not_a_point_embed.weight.expand_as(point)), dim=1)

    def cells(self, height: int, width: int) -> Tensor:
        """Position encoding of a grid's cells, (1, 256, height, width)."""
        like = self.not_a_point_embed.weight
        y = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) / height
        x = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) / width
        places = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        return rearrange(self.pe_layer(places), "h w c -> 1 c h w")


class MobileSam(nn.Module):
    """A picture is encoded once (`image_encoder`); then any number of points can be asked."""

    def __init__(self) -> None:
        super().__init__()
        self.image_encoder = TinyViT()
        self.prompt_encoder = PromptEncoder()
        self.mask_decoder = MaskDecoder()

    def masks_at(self, features: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Three masks for each point.

        Args:
            features: (1, 256, h, w) of a square picture.
            points: (b, 2), x and y as shares of that square.

        Returns:
            Mask logits (b, 3, 4h, 4w) and predicted intersection over union (b, 3).
        """
        prompts = self.prompt_encoder(points)
        places = self.prompt_encoder.cells(*features.shape[2:])
        without_mask = features + self.prompt_encoder.no_mask_embed.weight[:, :, None, None]
        return self.mask_decoder(without_mask, places, prompts)


def build(state: Mapping[str, Tensor]) -> MobileSam:
    """The network of a published file, without its parts for classes, boxes and given masks."""
    used = {key: tensor for key, tensor in state.items() if not key.startswith(_UNUSED)}
    return fill(MobileSam, used)
