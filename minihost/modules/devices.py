"""Where tensors live and in which precision, under the names the WebUI uses."""

from __future__ import annotations

import contextlib

import torch
from modules import shared_cmd_options
from torch import Tensor

cmd_opts = shared_cmd_options.cmd_opts


class NansException(Exception):
    """A model produced only NaN values."""


def _flag(name: str) -> bool:
    return bool(getattr(cmd_opts, name, False))


def get_optimal_device_name() -> str:
    """`cuda` when there is one and the command line does not forbid it, else `cpu`."""
    forced = {str(task).lower() for task in (getattr(cmd_opts, "use_cpu", None) or [])}
    return "cuda" if torch.cuda.is_available() and "all" not in forced else "cpu"


def get_optimal_device() -> torch.device:
    """The device generation runs on."""
    return torch.device(get_optimal_device_name())


def get_device_for(task: str) -> torch.device:
    """The device for one task; `--use-cpu <task>` moves single tasks off the GPU."""
    forced = {str(item).lower() for item in (getattr(cmd_opts, "use_cpu", None) or [])}
    return cpu if task.lower() in forced or "all" in forced else get_optimal_device()


def torch_gc() -> None:
    """Give unused memory back to the device; nothing to do on the CPU."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


cpu: torch.device = torch.device("cpu")
device: torch.device = get_optimal_device()
unet_needs_upcast: bool = False

_half = device.type == "cuda" and not _flag("no_half")
_half = _half and str(getattr(cmd_opts, "precision", "autocast")) != "full"
dtype: torch.dtype = torch.float16 if _half else torch.float32
dtype_unet: torch.dtype = dtype
dtype_vae: torch.dtype = torch.float32 if _flag("no_half_vae") else dtype


def autocast(disable: bool = False) -> contextlib.AbstractContextManager[object]:
    """Mixed precision for half weights on CUDA; a null context everywhere else."""
    precision = str(getattr(cmd_opts, "precision", "autocast"))
    plain = dtype == torch.float32 or precision in ("full", "half")
    if disable or plain or device.type != "cuda":
        return contextlib.nullcontext()
    return torch.autocast("cuda")


def without_autocast(disable: bool = False) -> contextlib.AbstractContextManager[object]:
    """Switch mixed precision off inside an `autocast()` block."""
    if device.type == "cuda" and torch.is_autocast_enabled() and not disable:
        return torch.autocast("cuda", enabled=False)
    return contextlib.nullcontext()


def test_for_nans(x: Tensor, where: str) -> None:
    """Raise `NansException` when `x` is NaN throughout.

    Args:
        x: any tensor.
        where: `"unet"` or `"vae"`, named in the message.
    """
    if not torch.isnan(x).all():
        return
    part = {"unet": "the U-Net", "vae": "the VAE"}.get(where, where)
    msg = (
        f"{part} produced a tensor of {tuple(x.shape)} with NaN in every place; "
        "start with --no-half"
    )
    raise NansException(msg)


test_for_nans.__test__ = False  # type: ignore[attr-defined]  # pytest must not collect it
