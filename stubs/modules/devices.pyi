from contextlib import AbstractContextManager

import torch

device: torch.device
dtype: torch.dtype
dtype_vae: torch.dtype

def autocast(disable: bool = ...) -> AbstractContextManager[object]: ...
def get_device_for(task: str) -> torch.device: ...
def torch_gc() -> None: ...
