"""What the editor of poses asks, and pose editors that other extensions bring.

A pose comes as text (see `detect.pose_text`) and is drawn as `/controlnet/render_openpose_json`
draws it, so the two pictures are the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from lib_controlnet.detect.pose import drawing, pose_json
from lib_controlnet.detect.pose_text import as_figures, parse_pose
from lib_controlnet.ui.pictures import as_data_url

if TYPE_CHECKING:
    from annotator.pose_drawing import Pose


_NAMES: Final = {
    "body": (
        *("pose_nose", "pose_neck"),
        *("pose_right_shoulder", "pose_right_elbow", "pose_right_wrist"),
        *("pose_left_shoulder", "pose_left_elbow", "pose_left_wrist"),
        *("pose_right_hip", "pose_right_knee", "pose_right_ankle"),
        *("pose_left_hip", "pose_left_knee", "pose_left_ankle"),
        *("pose_right_eye", "pose_left_eye", "pose_right_ear", "pose_left_ear"),
    ),
    "animal": (
        *("pose_left_eye", "pose_right_eye", "pose_nose", "pose_neck", "pose_tail"),
        *("pose_left_shoulder", "pose_left_elbow", "pose_left_front_paw"),
        *("pose_right_shoulder", "pose_right_elbow", "pose_right_front_paw"),
        *("pose_left_hip", "pose_left_knee", "pose_left_hind_paw"),
        *("pose_right_hip", "pose_right_knee", "pose_right_hind_paw"),
    ),
}
"""Part -> names in the table of texts of its points, in their order; others have numbers."""


def _tables(_value: Any, _runtime: Any) -> dict[str, Any]:
    """`tables`: how each part is drawn, see `Skeleton`; `keys`: of a person in JSON; `names`;
    `fraction`: up to there coordinates are fractions of the canvas.
    """
    tables = {name: asdict(skeleton) for name, skeleton in drawing.skeletons().items()}
    return {
        "tables": tables,
        "keys": drawing.KEYS,
        "names": _NAMES,
        "fraction": drawing.FARTHEST_FRACTION,
    }


def _parse(value: Any) -> Pose:
    """A pose of its text, or of `text` with the `width` and `height` that count without others."""
    asked = value if isinstance(value, Mapping) else {"text": value}
    return parse_pose(asked.get("text"), asked.get("width"), asked.get("height"))


def _read(value: Any, _runtime: Any) -> dict[str, Any]:
    return as_figures(_parse(value))


def _write(value: Any, _runtime: Any) -> str:
    """The pose as text in the form that the routes give and take."""
    return json.dumps(pose_json(_parse(value)))


def _render(value: Any, _runtime: Any) -> str:
    """The pose's picture, a data URL."""
    return as_data_url(drawing.draw_pose(_parse(value)))


POSE_ASKS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "pose_tables": _tables,
    "read_pose": _read,
    "write_pose": _write,
    "render_pose": _render,
}
"""See `editors.ASKS`."""
