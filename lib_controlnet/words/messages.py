"""Sentences that the server says in the panel: about a choice, or about what became of a click."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

MESSAGES: Final[Mapping[str, str]] = {
    "not_built_why": "{kind}: {reason}; the whole error is in the log",
    "not_uploaded": "ControlNet: a file that the page has not uploaded is not read; upload it",
    # Pasted parameters.
    "mask_not_pasted": (
        "The pasted picture was made with a mask of its own, which generation parameters do not "
        "hold: draw the mask again, or put its file in."
    ),
    "not_pasted": "The pasted parameters of this unit cannot be read, so it was left alone.",
    "value_not_pasted": "{name} {error}; that was not pasted.",
    "too_many_pasted": (
        "The pasted parameters have more units than this panel; left out: {numbers}. The setting "
        "for the number of units makes room."
    ),
    # What pictures that cannot be read are called.
    "panel_picture": "picture of the panel",
    "panel_mask": "mask of the panel",
    "panel_drawing": "drawing of the panel",
    # Models.
    "none_fits": "No control model fits the loaded checkpoint: {name} is made for another base.",
    "none_fits_of": (
        "No control model of the type {kind} fits the loaded checkpoint: {name} is made for "
        "another base."
    ),
    "none_usable": "No control model can be used here: {reason}.",
    "none_usable_of": "No control model of the type {kind} can be used here: {reason}.",
    "no_model_there": (
        "There is no control model in the model folders; put one there and press the refresh "
        "button."
    ),
    "no_model_there_of": (
        "There is no control model of the type {kind} in the model folders; put one there and "
        "press the refresh button."
    ),
    "other_base": "{base}, your checkpoint is {checkpoint}",
    "made_on_other": (
        "{model} was made on {base} by its name, and the loaded checkpoint {checkpoint} on "
        "{other_base}, so it may follow the picture less exactly; one made on {other_base} "
        "fits better"
    ),
    "reads_embedding": (
        "The model reads an embedding, and {preprocessor} gives a map; choose {other}."
    ),
    "reads_map": (
        "The model reads a map, and {preprocessor} gives an embedding; choose another one."
    ),
    "masked_otherwise": (
        "{preprocessor} marks masked pixels by {value}, and {model} reads {wanted} there, as far "
        "as is known; {other} gives every model what it reads"
    ),
    "more_names": "{names} and {count} more",
    "model_not_chosen": (
        "No control model is chosen yet: pick one under Model before you generate."
    ),
    "value_left": "{name} {error}; it was left at what a unit starts with.",
    # Preprocessors.
    "type_unusable": "{kind} cannot be used here: {reason}.",
    "first_run": "The first run of {preprocessor} downloads {files} to {folder}.",
    "lacks_files": (
        "{preprocessor} cannot run: it lacks {files}, and downloads are switched off; put what it "
        "lacks into {folder}."
    ),
    "cannot_run": "preprocessor {preprocessor} cannot run: {reason}",
    # The preview.
    "nothing_to_preview": "There is no picture to preview: put one into this unit first.",
    "preview_failed": "The preprocessor {preprocessor} failed.",
    "more": "more",
    # Presets.
    "preset_mask_not_kept": (
        "The preset's unit acts in a mask of its own, which was not kept: draw the mask, "
        "or put its file in."
    ),
    "preset_unit_note": "unit {unit}: {note}",
    "preset_unseen": "left out, because the panel does not show it: {fields}",
    "preset_too_many": "the panel has {count} units; left out: {numbers}",
    "preset_one_taken": "it holds {count} units; its unit {number} was taken",
    "preset_several": "several pictures in one cannot be shown, so they are left out",
    "preset_no_unit": "there is no unit {number}",
    "preset_unknown": "this is not known here; reload the page",
    "preset_not_whole": "the file {name} did not arrive whole; choose it again",
    "preset_no_file": (
        "no preset is among the files: they end in .json, those of older ControlNets in .txt"
    ),
}
