from typing import Any

from PIL import Image

def get_next_sequence_number(path: str, basename: str) -> int: ...
def save_image(
    image: Image.Image, path: str, basename: str, *args: Any, **kwargs: Any
) -> tuple[str, str | None]: ...
