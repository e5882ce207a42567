"""Former name of `modules.infotext_utils`, kept for extensions that import it."""

from __future__ import annotations

from modules.infotext_utils import *  # noqa: F403
from modules.infotext_utils import (  # noqa: F401
    ParamBinding,
    PasteField,
    image_from_url_text,
    parse_generation_parameters,
    quote,
    re_param,
    unquote,
)
