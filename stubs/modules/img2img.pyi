from collections.abc import Callable
from typing import Any

process_batch: Callable[..., Any]
