"""The only file that registers hooks on the host's U-Net.

The host's decoder concatenates stream and skip itself, so a residual can be added in a forward
pre-hook of each output block, to the skip's half of the fresh concatenation; the middle block's
residual is added in a forward hook. The host's forward, its optimisers and every neighbour stay
in charge, and removing the handles restores the model exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from torch import Tensor, nn

from lib_controlnet.engine.injection import Residuals, add_rows
from lib_controlnet.engine.step import StepContext, StepCursor
from lib_controlnet.errors import HostError

OUTPUT_BLOCKS = "output_blocks"


class StepListener(Protocol):
    """Answers, for each U-Net call, what to add."""

    def residuals(self, step: StepContext) -> list[Residuals]:
        """Residuals for this call, one entry per distinct set of rows; [] adds nothing."""
        ...

    def injected(self) -> None:
        """The call is over, and its blocks took the residuals."""
        ...


class UNetPatcher:
    """Hooks of one generation on one U-Net.

    Args:
        unet: module with `input_blocks`, `middle_block` and `output_blocks` (LDM layout).
        cursor: rows and progress of the evaluation that is under way.
        listener: computes the residuals.

    Raises:
        HostError: the module is not a U-Net of that layout (SD3, Flux).
    """

    def __init__(self, unet: nn.Module, cursor: StepCursor, listener: StepListener) -> None:
        for name in ("input_blocks", "middle_block", OUTPUT_BLOCKS):
            if not hasattr(unet, name):
                msg = (
                    f"the loaded model ({type(unet).__name__}) has no {name}: controls work with "
                    "SD1.x, SD2.x and SDXL checkpoints only"
                )
                raise HostError(msg)
        self.unet = unet
        self.cursor = cursor
        self.listener = listener
        self._current: list[Residuals] = []
        self._taken = False
        self._handles = ExitStack()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hooks are on the U-Net inside this context and gone after it, whatever happens."""
        with self._handles:
            self._attach()
            yield

    def move_to(self, unet: nn.Module) -> None:
        """Act on another U-Net of the same structure from now on (a refiner was switched to)."""
        self._handles.close()
        self.unet = unet
        self._attach()

    def _attach(self) -> None:
        keep = self._handles.callback
        keep(self._forget)
        unet, blocks = self.unet, self.unet.output_blocks
        keep(unet.register_forward_pre_hook(self._begin_call, with_kwargs=True).remove)
        keep(unet.register_forward_hook(self._end_call).remove)
        keep(unet.middle_block.register_forward_hook(self._middle_hook).remove)
        for position, block in enumerate(blocks):
            skip = len(blocks) - 1 - position  # blocks pop skips from the deepest up
            keep(block.register_forward_pre_hook(self._skip_hook(skip)).remove)

    def _forget(self) -> None:
        self._current = []

    def _begin_call(self, _unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._taken = False
        x, timesteps, context, y = _unet_arguments(args, kwargs)
        rows = self.cursor.next_rows(x.shape[0], context)
        if rows is None:
            self._current = []
            return
        step = StepContext(x, timesteps, context, y, self.cursor.progress, rows)
        self._current = self.listener.residuals(step)

    def _end_call(self, _unet: nn.Module, _args: tuple[Any, ...], _output: Tensor) -> None:
        self._current = []
        if self._taken:
            self.listener.injected()

    def _middle_hook(self, _block: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor:
        parts = [(part, part.layers[-1]) for part in self._current]
        if any(residual is not None for _, residual in parts):
            output = output.clone()  # the host may still hold the block's own output
            for part, residual in parts:
                if residual is not None:
                    add_rows(output, residual, part.rows)
                    self._taken = True
        return output

    def _skip_hook(self, skip: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def add_residual(_block: nn.Module, args: tuple[Any, ...]) -> None:
            for part in self._current:
                residual = part.layers[skip]
                if residual is not None:
                    # args[0] is cat([stream, skip], dim=1), made for this call alone
                    add_rows(args[0], residual, part.rows)
                    self._taken = True

        return add_residual


def _unet_arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """x, timesteps, context, y of an LDM or SGM U-Net call, positional or by name."""
    names = ("x", "timesteps", "context", "y")
    given = dict(zip(names, args, strict=False)) | {k: v for k, v in kwargs.items() if k in names}
    return given["x"], given["timesteps"], given.get("context"), given.get("y")
