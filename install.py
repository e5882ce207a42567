"""Run by the WebUI at every start. Installs nothing: the extension needs only what it ships.

Preprocessors that want more name the exact `pip` line in their list entry; this file only says
which of those packages are there, from their metadata, without importing anything heavy.
"""

from __future__ import annotations

from importlib import metadata

OPTIONAL = ("mediapipe", "onnxruntime", "insightface")


def is_installed(package: str) -> bool:
    """Whether a distribution of that name is installed, for the CPU or the GPU."""
    for name in (package, f"{package}-gpu"):
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return True
    return False


if __name__ == "__main__":
    present = [package for package in OPTIONAL if is_installed(package)]
    if present:
        print(f"ControlNet: optional packages found: {', '.join(present)}")
