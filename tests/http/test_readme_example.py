"""The README's API example, run as it is printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image


def test_api_example_of_the_readme_writes_a_picture(
    webui, root: Path, photograph: np.ndarray, tmp_path: Path
) -> None:
    readme = (root / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", readme, flags=re.S)[1]
    assert 'WEBUI = "http://127.0.0.1:7860"' in code
    Image.fromarray(photograph).save(tmp_path / "photograph.png")
    script = tmp_path / "example.py"
    script.write_text(code.replace("http://127.0.0.1:7860", webui.url), encoding="utf-8")
    run = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert Image.open(tmp_path / "result.png").size == (256, 256)
