"""Stand-ins for other extensions, calling ControlNet the way those do."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import torch
from torch import Tensor

CELL = 8
"""Pixels per latent cell."""


def controlnet_script(tab: str = "txt2img") -> Any:
    """ControlNet's script object, found by its title and `latest_network`."""
    from modules import scripts

    runner = getattr(scripts, f"scripts_{tab}")
    return next(
        script
        for script in runner.alwayson_scripts
        if script.title().lower() == "controlnet" and hasattr(script, "latest_network")
    )


Forward = Callable[..., Tensor]


@contextmanager
def denoiser_replaced(make: Callable[[Any, Forward], Forward]) -> Iterator[None]:
    """Every sampler that the host makes inside calls `make(sampler, original)` for its U-Net.

    Tiled Diffusion and AnimateDiff get between sampler and U-Net this way, when the host makes
    the sampler: after `process`, before the pass is announced to scripts.
    """
    from modules import sd_samplers

    original = sd_samplers.create_sampler

    def create_sampler(*arguments: Any, **named: Any) -> Any:
        sampler = original(*arguments, **named)
        inner = sampler.model_wrap_cfg.inner_model
        inner.forward = make(sampler, inner.forward)
        return sampler

    sd_samplers.create_sampler = create_sampler
    try:
        yield
    finally:
        sd_samplers.create_sampler = original


def rows_of(cond: Any, index: list[int] | slice) -> Any:
    """Some rows of what the host passes as condition: tensors in lists in a dict."""
    if isinstance(cond, Tensor):
        return cond[index]
    if isinstance(cond, dict):
        return {name: rows_of(value, index) for name, value in cond.items()}
    return [rows_of(value, index) for value in cond]


class Tiles:
    """Tiled Diffusion: tiles of the latent in one U-Net call, each with its part of the hints.

    Args:
        boxes: (left, top, right, bottom) in latent cells, all of one size.
    """

    def __init__(self, boxes: list[tuple[int, int, int, int]]) -> None:
        self.boxes = boxes
        self.calls: list[dict[str, Any]] = []
        self.params: list[Any] = []
        self.whole: list[Tensor] = []

    def attach(self, _sampler: Any, forward: Forward) -> Forward:
        self.restore()
        network = controlnet_script().latest_network
        self.params = [] if network is None else network.control_params
        self.whole = [param.hint_cond for param in self.params]

        def tiled(x: Tensor, sigma: Tensor, cond: Any) -> Tensor:
            count, tiles = x.shape[0], len(self.boxes)
            parts = [x[:, :, t:b, l:r] for l, t, r, b in self.boxes]  # noqa: E741
            self.switch(count)
            again = [row for _ in range(tiles) for row in range(count)]
            x_all, sigma_all, cond_all = torch.cat(parts), sigma[again], rows_of(cond, again)
            out = forward(x_all, sigma_all, cond=cond_all)
            self.calls.append({"x": x_all, "sigma": sigma_all, "cond": cond_all, "out": out})
            result = torch.zeros_like(x)
            for i, (l, t, r, b) in enumerate(self.boxes):  # noqa: E741
                result[:, :, t:b, l:r] = out[i * count : (i + 1) * count]
            return result

        return tiled

    def switch(self, count: int) -> None:
        """Give every unit the hints of the tiles, each `count` times."""
        for param, hint in zip(self.params, self.whole, strict=True):
            param.hint_cond = torch.cat(
                [
                    hint[:, :, t * CELL : b * CELL, l * CELL : r * CELL]
                    for l, t, r, b in self.boxes  # noqa: E741
                    for _ in range(count)
                ]
            )

    def restore(self) -> None:
        """What Tiled Diffusion does in `postprocess_batch`."""
        for param, hint in zip(self.params, self.whole, strict=True):
            param.hint_cond = hint


class Frames:
    """AnimateDiff: a batch of frames with one hint each, denoised in windows of a few frames."""

    def __init__(self, hints: Tensor, windows: list[list[int]]) -> None:
        self.hints = hints
        self.windows = windows
        self.shapes: list[int] = []

    def attach(self, _sampler: Any, forward: Forward) -> Forward:
        params = controlnet_script().latest_network.control_params
        for param in params:
            param.hint_cond = self.hints

        def windowed(x: Tensor, sigma: Tensor, cond: Any) -> Tensor:
            half = x.shape[0] // 2
            out = torch.zeros_like(x)
            for window in self.windows:
                rows = [*window, *(frame + half for frame in window)]
                self.select(params, window)
                self.shapes.append(params[0].hint_cond.shape[0])
                out[rows] = forward(x[rows], sigma[rows], cond=rows_of(cond, rows))
                self.put_back(params, window)
            return out

        return windowed

    @staticmethod
    def select(params: list[Any], window: list[int]) -> None:
        for param in params:
            if param.hint_cond.shape[0] > len(window):
                param.hint_cond_backup = param.hint_cond
                param.hint_cond = param.hint_cond[window]
            assert param.hr_hint_cond is None

    @staticmethod
    def put_back(params: list[Any], window: list[int]) -> None:
        for param in params:
            if getattr(param, "hint_cond_backup", None) is not None:
                param.hint_cond_backup[window] = param.hint_cond
                param.hint_cond = param.hint_cond_backup
                param.hint_cond_backup = None


class Detailer:
    """ADetailer: another generation on the same script objects, inside `postprocess_image`.

    Args:
        units: of the inner generation; None mutes ControlNet through `p.control_net_enabled`.
    """

    def __init__(self, external_code: Any, units: list[Any] | None) -> None:
        self.external_code = external_code
        self.units = units
        self.inner: list[Any] = []
        self.seen: list[Any] = []

    def postprocess_image(self, p: Any, pp: Any) -> None:
        from modules import processing

        if getattr(p, "_inner", False):
            return
        dummy = processing.Processed(p, [], p.seed, "")
        p.scripts.postprocess(copy.copy(p), dummy)
        try:
            self.inner.append(processing.process_images(self._inner_p(p, pp.image)))
        finally:
            again = copy.copy(p)
            p.scripts.before_process(again)
            p.scripts.process(again)
        self.seen.append(controlnet_script().latest_network)

    def _inner_p(self, p: Any, image: Any) -> Any:
        from modules import processing

        inner = processing.StableDiffusionProcessingImg2Img(
            init_images=[image], denoising_strength=0.5, prompt=p.prompt, seed=p.seed,
            steps=p.steps, width=p.width, height=p.height, cfg_scale=p.cfg_scale,
            sampler_name=p.sampler_name, do_not_save_samples=True, do_not_save_grid=True,
        )  # fmt: skip
        inner._inner = True
        inner.is_api = p.is_api
        inner.scripts = copy.copy(p.scripts)
        own = self.external_code.find_cn_script(p.scripts)
        inner.scripts.alwayson_scripts = [own]
        inner.scripts.callback_map = {}
        inner.script_args = copy.deepcopy(p.script_args)
        if self.units is None:
            inner.control_net_enabled = False
        else:
            self.external_code.update_cn_script_in_processing(inner, self.units)
        return inner


def processing_of(*units: Any, **fields: Any) -> Any:
    """A txt2img processing object with these units, as scripts make one."""
    from controls import request
    from modules import processing, scripts

    own = {name: value for name, value in request().items() if name != "alwayson_scripts"}
    p = processing.StableDiffusionProcessingTxt2Img(
        **{**own, **fields}, do_not_save_samples=True, do_not_save_grid=True
    )
    runner = scripts.scripts_txt2img
    ours = controlnet_script()
    arguments = [None] * max(script.args_to for script in runner.alwayson_scripts)
    for script in runner.alwayson_scripts:
        if script is not ours:
            values = [control.value for control in script.controls]
            arguments[script.args_from : script.args_to] = values
    arguments[ours.args_from : ours.args_from + len(units)] = units
    arguments[0] = 0
    p.is_api = True  # the host's own scripts leave seed and sampler alone then
    p.scripts, p.script_args = runner, tuple(arguments)
    return p


def process(p: Any) -> Any:
    """What the host's button does with a processing object."""
    from modules import processing, shared

    shared.state.begin("test")
    try:
        with closing(p):
            return processing.process_images(p)
    finally:
        shared.state.end()
