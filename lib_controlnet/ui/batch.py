"""Where a unit's pictures come from: one picture, the pictures of a folder, or several at once.

The tabs above a unit's picture are the choice. Which of them is open is kept in a hidden text, so
that it travels with Generate like every other value.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import gradio as gr
from gradio.context import Context

from lib_controlnet.enums import InputMode
from lib_controlnet.errors import ImageError
from lib_controlnet.pictures.decode import check_file
from lib_controlnet.ui.browser import in_page, page_function
from lib_controlnet.ui.messages import notice
from lib_controlnet.ui.uploads import only_uploads, upload
from lib_controlnet.units.unit import FIELDS
from lib_controlnet.words import word

if TYPE_CHECKING:
    from gradio.components import Component

    from lib_controlnet.ui.unit_widgets import UnitWidgets

MERGE_IMAGES: Final = "merge_images"
"""Value of a unit beside its fields: JSON list of the uploaded files, for `InputMode.MERGE`."""
CONTROL_BOX: Final = "controlnet_batch_input_dir"
_BOX_BEFORE: Final = "img2img_batch_inpaint_mask_dir"
HOST_BOXES: Final[dict[str, str]] = {
    "batch_images_of_tab": CONTROL_BOX,
    "batch_images_of_host": "img2img_batch_input_dir",
    "output_dir_of_host": "img2img_batch_output_dir",
}
"""Value of a unit beside its fields -> element id of a box in img2img's batch tab."""


def build_tabs(name: str) -> dict[str, Any]:
    """Build the tabs "Batch" and "Multi-Inputs" beside that of the single picture.

    Args:
        name: the unit's element id.
    """
    made: dict[str, Any] = {}
    with gr.Tab(word("tab_batch")) as made["batch_tab"]:
        made["batch_images"] = gr.Textbox(
            label=word("input_directory"),
            placeholder=word("input_directory_empty"),
            elem_id=f"{name}_batch_image_dir",
        )
        made["output_dir"] = gr.Textbox(
            label=word("output_directory"),
            placeholder=word("output_directory_empty"),
            info=word("output_directory_note"),
            elem_id=f"{name}_batch_output_dir",
        )
    with gr.Tab(word("tab_several")) as made["merge_tab"]:
        made["merge_gallery"] = gr.Gallery(
            columns=[4],
            rows=[2],
            object_fit="contain",
            height="auto",
            label=word("images"),
            elem_id=f"{name}_merge_gallery",
        )
        with gr.Row():
            made["merge_upload"] = gr.UploadButton(
                word("upload_images"),
                file_types=["image"],
                file_count="multiple",
                elem_id=f"{name}_merge_upload",
            )
            only_uploads(made["merge_upload"])
            made["merge_clear"] = gr.Button(word("clear_images"), elem_id=f"{name}_merge_clear")
    made["input_mode"] = gr.Textbox(
        FIELDS["input_mode"].initial,
        label=word("input_mode"),
        visible=False,
        elem_id=f"{name}_input_mode",
    )
    made[MERGE_IMAGES] = gr.Textbox("", label=word("merged_images"), visible=False)
    for hidden in ("input_mode", MERGE_IMAGES):
        made[hidden].do_not_save_to_config = True
    return made


def build_loopback(name: str) -> Component:
    """The box "Batch Loopback"; shown while a unit of the tab is a batch."""
    return gr.Checkbox(
        label=word("loopback"),
        value=FIELDS["loopback"].initial,
        visible=False,
        elem_id=f"{name}_controlnet_automatically_send_generated_images_checkbox",
        elem_classes=["controlnet_loopback_checkbox"],
    )


def connect_batch(units: Sequence[UnitWidgets]) -> None:
    """Attach the events of all units of a tab."""
    modes = [unit.input_mode for unit in units]
    boxes = [unit.loopback for unit in units]
    loopback = page_function("showLoopback", InputMode.BATCH.value)
    for unit in units:
        tabs = (unit.single_tab, unit.batch_tab, unit.merge_tab)
        for tab, mode in zip(tabs, InputMode, strict=True):
            in_page(tab.select, page_function("write", mode.value), [], [unit.input_mode])
        in_page(unit.input_mode.change, loopback, modes, boxes)
        unit.merge_upload.upload(
            fn=add_uploads,
            inputs=[unit.merge_upload, unit.merge_images],
            outputs=[unit.merge_gallery, unit.merge_images, unit.picture_note, unit.enabled],
            show_progress=False,
            queue=False,
        )
        cleared = [unit.merge_gallery, unit.merge_images]
        in_page(unit.merge_clear.click, page_function("write", [], ""), [], cleared)


def add_uploads(
    files: Sequence[Any], present: str
) -> tuple[list[str], str, dict[str, Any], dict[str, Any]]:
    """Add uploaded files to the pictures of a unit.

    Returns:
        Paths for the gallery, the same as JSON, a line about files that are no pictures, and that
        the unit is enabled if one was added.
    """
    added, refused = [], []
    for file in files or []:
        try:
            check_file(Path(file.name), Path(file.name).name)
            added.append(str(file.name))
        except ImageError as error:
            refused.append(str(error))
    paths = [*read_paths(present), *added]
    said = notice(*refused)
    return paths, write_paths(paths), said, gr.update(value=True) if added else gr.update()


def read_paths(text: Any) -> list[str]:
    """The files that a value of `MERGE_IMAGES` names.

    Raises:
        ValueError: it is no JSON.
        TypeError: it is no list.
    """
    return [str(path) for path in json.loads(text)] if isinstance(text, str) and text else []


def write_paths(paths: Sequence[str | Path]) -> str:
    """The value of `MERGE_IMAGES` that names some files."""
    return json.dumps([str(path) for path in paths])


def add_control_box(hidden: bool, elem_id: str | None) -> None:
    """Put the box for a folder of control pictures behind the host's own in its batch tab.

    Args:
        hidden: the WebUI shows no boxes for folders.
        elem_id: id of the host's component that has just been made.
    """
    if elem_id == _BOX_BEFORE:
        gr.Textbox(
            label=word("batch_control_directory"),
            placeholder=word("batch_control_directory_empty"),
            visible=not hidden,
            elem_id=CONTROL_BOX,
        )


def host_boxes() -> dict[str, Component]:
    """The boxes of `HOST_BOXES` in the Blocks that is being built, as far as they are there."""
    root = Context.root_block
    by_id = {} if root is None else {block.elem_id: block for block in root.blocks.values()}
    return {name: by_id[box] for name, box in HOST_BOXES.items() if box in by_id}


def read_input(fields: dict[str, Any], independent: bool) -> dict[str, Any]:
    """The unit's fields without what only the panel knows, with the pictures that are meant.

    Args:
        fields: raw values by field, and those of `MERGE_IMAGES` and `HOST_BOXES`.
        independent: the unit has a picture of its own; else it follows the tab's.
    """
    found = dict(fields)
    beside = {name: found.pop(name, None) for name in (MERGE_IMAGES, *HOST_BOXES)}
    folder, target = found.pop("batch_images", None), found.pop("output_dir", None)
    mode = found.pop("input_mode", None) or InputMode.SIMPLE
    if not independent or mode == InputMode.SIMPLE:
        return found
    if mode == InputMode.MERGE:
        pictures: Any = [_read_upload(path) for path in read_paths(beside[MERGE_IMAGES])]
        return {**found, "input_mode": mode, "batch_images": pictures}
    defaults = [beside["batch_images_of_tab"], beside["batch_images_of_host"]]
    named = [text.strip() for text in (folder, *defaults) if text and text.strip()]
    target = (target or "").strip() or (beside["output_dir_of_host"] or "").strip()
    pictures = named[0] if named else None
    return {**found, "input_mode": mode, "batch_images": pictures, "output_dir": target}


def _read_upload(path: str) -> bytes | str:
    """Bytes of an uploaded file; any other path stays text, to be refused when it is used.

    The page keeps the paths, so a request may name whatever it likes.
    """
    file = upload(path)
    return path if file is None else file.read_bytes()
