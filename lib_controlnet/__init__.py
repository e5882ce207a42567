"""ControlNet for A1111-style Stable Diffusion WebUIs: engine and interfaces (Zhang et al. 2023)."""

from typing import Final

__version__: Final = "2.0.0"
