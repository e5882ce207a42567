"""The script "controlnet m2m" of the script list: a movie's frames as control images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modules import script_loading, scripts

PACKAGE = Path(__file__).resolve().parents[1] / "lib_controlnet"

# By its path: other code may own the package's name.
conflicts = script_loading.load_module(str(PACKAGE / "host" / "page" / "conflicts.py"))
if conflicts.take_place() is None:
    from lib_controlnet.host.runs import movie
    from lib_controlnet.host.runtime import find_runtime, runtime
    from lib_controlnet.ui.fallback import build_or_tell
    from lib_controlnet.ui.movie import build_movie_panel

    class Script(scripts.Script):
        """One generation per frame; frames, GIF and MP4 come out."""

        def title(self) -> str:
            return "controlnet m2m"

        def show(self, is_img2img: bool) -> object:
            return find_runtime() is not None  # else ControlNet itself is not there

        def ui(self, is_img2img: bool) -> list[Any]:
            return build_or_tell(lambda: build_movie_panel(runtime()), self.title())

        def run(self, p: Any, *args: Any) -> Any:
            return movie.run(p, args, runtime())
