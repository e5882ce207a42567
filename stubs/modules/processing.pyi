from collections.abc import Callable
from typing import Any

from modules.scripts import ScriptRunner

class StableDiffusionProcessing:
    scripts: ScriptRunner | None
    def close(self) -> None: ...

class Processed:
    images: list[Any]
    infotexts: list[str]
    extra_generation_params: dict[str, Any]
    comments: str
    index_of_first_image: int
    info: str
    def __init__(self, p: Any, images_list: list[Any], *args: Any, **kwargs: Any) -> None: ...

create_infotext: Callable[..., str]
process_images: Callable[[Any], Processed]

def fix_seed(p: Any) -> None: ...
