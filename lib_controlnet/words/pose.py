"""What the editor of poses says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_JOINTS: Final[Mapping[str, str]] = {
    "pose_nose": "Nose",
    "pose_neck": "Neck",
    "pose_tail": "Root of the tail",
    **{
        f"pose_{side}_{joint}": f"{side.capitalize()} {joint.replace('_', ' ')}"
        for side in ("right", "left")
        for joint in (
            *("shoulder", "elbow", "wrist", "hip", "knee", "ankle", "eye", "ear"),
            *("front_paw", "hind_paw", "hand"),
        )
    },
}

_LIBRARY: Final[Mapping[str, str]] = {
    "pose_standing": "Standing",
    "pose_on_hip": "Hand on hip",
    "pose_walking": "Walking",
    "pose_running": "Running",
    "pose_sitting": "Sitting",
    "pose_on_floor": "Sitting on the floor",
    "pose_t_pose": "T-pose",
    "pose_arms_crossed": "Arms crossed",
    "pose_waving": "Waving",
    "pose_arms_up": "Arms up",
    "pose_lying": "Lying",
    "pose_kneeling": "Kneeling",
    "pose_crouching": "Crouching",
    "pose_jumping": "Jumping",
    "pose_dancing": "Dancing",
    "pose_profile": "From the side",
    "pose_back": "From behind",
    "pose_animal_standing": "Animal, standing",
    "pose_animal_walking": "Animal, walking",
    "pose_animal_sitting": "Animal, sitting",
}

POSE: Final[Mapping[str, str]] = {
    "pose_person": "Person {number}",
    "pose_animal": "Animal {number}",
    "pose_body": "Body",
    "pose_face": "Face",
    **_JOINTS,
    "pose_point": "{part}, point {number}",
    **_LIBRARY,
    # Beside the stage.
    "pose_figures": "Figures",
    "pose_joints": "Joints",
    "pose_library": "Add a figure",
    "pose_file": "JSON",
    "pose_empty": "No figure yet: add one, or open a file.",
    "pose_deeds": "The selected figure",
    "pose_copy": "Copy",
    "pose_copy_note": "Copy the selected figure (Ctrl+D)",
    "pose_mirror": "Mirror",
    "pose_mirror_note": "Turn the figure to its other side; left and right change places (M)",
    "pose_raise": "To the front",
    "pose_raise_note": "Draw the figure over all others",
    "pose_delete": "Delete",
    "pose_delete_note": "Delete the figure (Delete)",
    "pose_turn_left": "Turn left by 15 degrees",
    "pose_turn_right": "Turn right by 15 degrees",
    "pose_smaller": "Smaller",
    "pose_larger": "Larger",
    "pose_part": "Part",
    "pose_part_note": "Add it to the figure, or take it away",
    "pose_add": "Add: {name}",
    "pose_open": "Open a file",
    "pose_open_note": "Show the pose of a file in the place of what is here",
    "pose_save": "Save a file",
    "pose_save_note": "Save the pose as JSON",
    "pose_text": "Paste a pose",
    "pose_take": "Show it",
    "pose_take_note": "Show the pasted pose in the place of what is here",
    # Above the stage.
    "pose_wholly": "Limbs follow",
    "pose_wholly_note": (
        "What hangs on a joint moves along with it; so it does with the Alt key held"
    ),
    "pose_hint": (
        "Drag joints, limbs or figures (with Shift always the figure). Right click, H or a resting "
        "finger hides a joint; Tab goes from joint to joint, arrow keys move it."
    ),
    # Sentences.
    "pose_shown": "{joint}: shown.",
    "pose_hidden": "{joint}: hidden.",
    "pose_none_selected": "Select a figure first.",
    "pose_taken": "{count} figures on a canvas of {width} x {height} pixels.",
}
