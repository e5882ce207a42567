"""Picture upscalers that need no weights."""

from __future__ import annotations

from PIL import Image

NEAREST = Image.Resampling.NEAREST
LANCZOS = Image.Resampling.LANCZOS


class Upscaler:
    """Base of all upscalers; a subclass provides `do_upscale`."""

    name: str | None = None
    scalers: list[UpscalerData]

    def __init__(self) -> None:
        self.scale = 1.0
        self.scalers = []

    def do_upscale(self, img: Image.Image, selected_model: str | None) -> Image.Image:
        """One application of the upscaler; may give any larger size."""
        raise NotImplementedError

    def upscale(
        self, img: Image.Image, scale: float, selected_model: str | None = None
    ) -> Image.Image:
        """Enlarge to `scale` times, rounded down to multiples of 8 as the WebUI does."""
        self.scale = scale
        width = int((img.width * scale) // 8 * 8)
        height = int((img.height * scale) // 8 * 8)
        for _ in range(3):
            if img.width >= width and img.height >= height:
                break
            before = img.size
            img = self.do_upscale(img, selected_model)
            if img.size == before:
                break
        if img.size != (width, height):
            img = img.resize((width, height), resample=LANCZOS)
        return img


class UpscalerData:
    """One entry of the upscaler list."""

    def __init__(
        self,
        name: str,
        path: str | None,
        upscaler: Upscaler | None = None,
        scale: int = 4,
        model: object = None,
    ) -> None:
        self.name = name
        self.data_path = path
        self.local_data_path = path
        self.scaler = upscaler
        self.scale = scale
        self.model = model


class UpscalerNone(Upscaler):
    """Leaves the picture; the caller's own resize does the rest."""

    name = "None"

    def __init__(self, dirname: str | None = None) -> None:
        super().__init__()
        del dirname
        self.scalers = [UpscalerData("None", None, self)]

    def do_upscale(self, img: Image.Image, selected_model: str | None = None) -> Image.Image:
        """The picture itself."""
        del selected_model
        return img

    def upscale(
        self, img: Image.Image, scale: float, selected_model: str | None = None
    ) -> Image.Image:
        """The picture itself."""
        del scale, selected_model
        return img


class _Resampler(Upscaler):
    filter: Image.Resampling

    def __init__(self, dirname: str | None = None) -> None:
        super().__init__()
        del dirname
        self.scalers = [] if self.name is None else [UpscalerData(self.name, None, self)]

    def do_upscale(self, img: Image.Image, selected_model: str | None = None) -> Image.Image:
        """Resampled to `self.scale` times."""
        del selected_model
        size = (int(img.width * self.scale), int(img.height * self.scale))
        return img.resize(size, resample=self.filter)


class UpscalerLanczos(_Resampler):
    """Windowed sinc."""

    name = "Lanczos"
    filter = LANCZOS


class UpscalerNearest(_Resampler):
    """Repeats pixels."""

    name = "Nearest"
    filter = NEAREST


def load_upscalers() -> list[UpscalerData]:
    """Every upscaler this host has, in list order."""
    upscalers = (UpscalerNone(), UpscalerLanczos(), UpscalerNearest())
    return [data for upscaler in upscalers for data in upscaler.scalers]
