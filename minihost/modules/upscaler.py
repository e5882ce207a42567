"""Picture upscalers that need no weights."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

LANCZOS = Image.Resampling.LANCZOS


class Upscaler:
    """Enlarges by resampling.

    Args:
        filter: how; None leaves the picture, and the caller's own resize does the rest.
    """

    def __init__(self, filter: Image.Resampling | None) -> None:
        self.filter = filter

    def upscale(self, img: Image.Image, scale: float) -> Image.Image:
        """Enlarge to `scale` times, rounded down to multiples of 8 as the WebUI does."""
        if self.filter is None:
            return img
        width = int((img.width * scale) // 8 * 8)
        height = int((img.height * scale) // 8 * 8)
        if img.width < width or img.height < height:
            size = (int(img.width * scale), int(img.height * scale))
            img = img.resize(size, resample=self.filter)
        return img if img.size == (width, height) else img.resize((width, height), LANCZOS)


@dataclass(frozen=True)
class UpscalerData:
    """One entry of the upscaler list."""

    name: str
    scaler: Upscaler
    scale: int = 4


def load_upscalers() -> list[UpscalerData]:
    """Every upscaler this host has, in list order."""
    filters = {"None": None, "Lanczos": LANCZOS, "Nearest": Image.Resampling.NEAREST}
    return [UpscalerData(name, Upscaler(kind)) for name, kind in filters.items()]
