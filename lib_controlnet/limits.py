"""What a request may ask for: every limit on sizes and counts, checked before memory is taken.

Sentences name the limit that was passed, and what to do.
"""

from __future__ import annotations

from typing import Final

MEGABYTE: Final = 1 << 20

MAX_SIDE: Final = 16_384
MAX_PIXELS: Final = 128_000_000
"""Of one picture, mask or result."""

MAX_FILE_BYTES: Final = 512 * MEGABYTE
"""Of one picture's file."""

MAX_WORKED: Final = 4096 * 4096
"""Pixels a preprocessor works on, or a pose is drawn on: 2048 on the short side of 4:1. Its memory
is many times that of the picture."""

MAX_IMAGES: Final = 256
"""Pictures or poses of one request for detection."""
MAX_TOGETHER: Final = 256_000_000
"""Pixels of all pictures of such a request and of their maps."""
MAX_TURNS: Final = 2
"""Requests for detection at work at a time; the others wait."""

MAX_MERGED: Final = 32
"""Pictures of one unit that act in one generation: each is evaluated at every step."""
MAX_EMBEDDED: Final = 1 << 22
"""Numbers of one embedding that a request brings: five levels of a face network have 3 million."""
MAX_LISTED: Final = 1000
"""Pictures that a request lists for a batch."""
MAX_FILES: Final = 50_000
"""Pictures of a folder: half an hour of film."""

MAX_FRAMES: Final = 100_000
"""Of one movie."""
MAX_FRAME_PIXELS: Final = 36_000_000
"""A frame of 8K (7680 x 4320) fits."""
MAX_MOVIE_PIXELS: Final = 500_000_000_000
"""All frames together: two hours of Full HD with 30 frames a second."""

MAX_FIGURES: Final = 1000
"""People and animals in one picture."""

MAX_BODY: Final = 320 * MEGABYTE
"""A picture of 8192 x 8192 pixels that PNG cannot compress is 257 MB of base64."""
MAX_POSE_BODY: Final = 4 * MEGABYTE
"""About 500 people with hands and faces."""
MAX_VALUES: Final = 1_000_000
"""Commas and opening brackets of a body. Pictures bring none, so more is no honest request."""
MAX_DISCARDED: Final = 1024 * MEGABYTE
"""Bytes of a refused body that are still read: a client that is cut off while it sends sees a
broken connection, not the answer."""
