"""Where tensors live and in which precision, under the names the WebUI uses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

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
    if torch.cuda.is_available() and "all" not in forced:
        wanted = getattr(cmd_opts, "device_id", None)
        return "cuda" if wanted is None else f"cuda:{wanted}"
    return "cpu"


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
fp8: bool = False
force_fp16: bool = False
unet_needs_upcast: bool = False

_half = device.type == "cuda" and not _flag("no_half")
_half = _half and str(getattr(cmd_opts, "precision", "autocast")) != "full"
dtype: torch.dtype = torch.float16 if _half else torch.float32
dtype_unet: torch.dtype = dtype
dtype_inference: torch.dtype = dtype
dtype_vae: torch.dtype = torch.float32 if _flag("no_half_vae") else dtype


def cond_cast_unet(tensor: Tensor) -> Tensor:
    """Cast to the U-Net's dtype when the U-Net runs in a wider dtype than its weights."""
    return tensor.to(dtype_unet) if unet_needs_upcast else tensor


def cond_cast_float(tensor: Tensor) -> Tensor:
    """Cast to float32 when the U-Net runs in a wider dtype than its weights."""
    return tensor.float() if unet_needs_upcast else tensor


def has_mps() -> bool:
    """Always false: this host runs on CPU and CUDA only."""
    return False


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


@contextlib.contextmanager
def manual_cast(target_dtype: torch.dtype) -> Iterator[None]:
    """Present for callers that expect the name; no back end of this host needs it."""
    del target_dtype
    yield


def randn(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Normal noise of `shape` from `seed`; see `modules.rng.randn`."""
    from modules import rng

    return rng.randn(seed, shape)


def randn_local(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Normal noise without touching the global generator; see `modules.rng.randn_local`."""
    from modules import rng

    return rng.randn_local(seed, shape)


def randn_like(x: Tensor) -> Tensor:
    """Normal noise shaped like `x` from the global generator; see `modules.rng.randn_like`."""
    from modules import rng

    return rng.randn_like(x)


def randn_without_seed(shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
    """Normal noise that continues `generator`; see `modules.rng.randn_without_seed`."""
    from modules import rng

    return rng.randn_without_seed(shape, generator=generator)


def manual_seed(seed: int) -> None:
    """Seed the global generator; see `modules.rng.manual_seed`."""
    from modules import rng

    rng.manual_seed(seed)


def test_for_nans(x: Tensor, where: str) -> None:
    """Raise `NansException` when `x` is NaN throughout.

    Args:
        x: any tensor.
        where: `"unet"` or `"vae"`, named in the message.
    """
    if _flag("disable_nan_check") or not torch.isnan(x).all():
        return
    part = {"unet": "the U-Net", "vae": "the VAE"}.get(where, where)
    msg = (
        f"{part} produced a tensor of {tuple(x.shape)} with NaN in every place; "
        "start with --no-half, or --disable-nan-check to see the picture anyway"
    )
    raise NansException(msg)


test_for_nans.__test__ = False  # type: ignore[attr-defined]  # pytest must not collect it
