from collections.abc import Callable
from typing import Any

class Sampler:
    p: Any
    def launch_sampling(self, steps: int, func: Callable[[], Any]) -> Any: ...
