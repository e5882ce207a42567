"""Our copy of the img2img preparation equals the host's, to the pixel, in every resize mode."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CASES = 60


def test_pictures_masks_and_crops_equal_the_hosts(root: Path) -> None:
    """In a process of its own: the host's modules read the command line when imported."""
    probe = root / "tests" / "host" / "crop_probe.py"
    done = subprocess.run(
        [sys.executable, str(probe), str(root / "minihost"), str(CASES)],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.search(r"(\d+) cases equal, (\d+) of them cropped", done.stdout)
    assert found, done.stdout
    assert int(found[1]) == CASES
    assert int(found[2]) > CASES // 4, "hardly any case was about the crop"
