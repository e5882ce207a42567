"""The script "controlnet m2m" of the script list: a movie's frames as control images."""

from __future__ import annotations

from typing import Any

from modules import scripts

from lib_controlnet.host.page import conflicts
from lib_controlnet.host.runs import movie
from lib_controlnet.host.runtime import find_runtime, runtime
from lib_controlnet.ui.fallback import build_or_tell
from lib_controlnet.ui.movie import build_movie_panel

if conflicts.other_installation() is None:

    class Script(scripts.Script):
        """One generation per frame; frames, GIF and MP4 come out."""

        def title(self) -> str:
            return "controlnet m2m"

        def show(self, is_img2img: bool) -> object:
            return find_runtime() is not None  # else ControlNet itself is not there

        def ui(self, is_img2img: bool) -> list[Any]:
            return build_or_tell(lambda: build_movie_panel(runtime()), self.title(), 0)

        def run(self, p: Any, *args: Any) -> Any:
            return movie.run(p, args, runtime())
