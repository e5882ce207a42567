"""Parts that several tabs share: output panel, refresh buttons, dialogs, text as HTML."""

from __future__ import annotations

import csv
import dataclasses
import html
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from modules import infotext_utils, scripts, shared
from modules.infotext_utils import image_from_url_text
from modules.ui_components import ToolButton

# Signs that plain fonts have too.
refresh_symbol = "↻"
save_symbol = "⇩"
upscale_symbol = "✦"


@dataclasses.dataclass
class OutputPanel:
    """Components of an output panel."""

    gallery: Any = None
    generation_info: Any = None
    infotext: Any = None
    html_log: Any = None
    button_upscale: Any = None


def plaintext_to_html(text: str | None, classname: str | None = None) -> str:
    """Escape text and keep its line breaks."""
    content = "<br>\n".join(html.escape(line) for line in (text or "").split("\n"))
    return f"<p class='{classname}'>{content}</p>" if classname else f"<p>{content}</p>"


def update_generation_info(generation_info: str, html_info: str, img_index: int) -> str:
    """Show the infotext of the selected picture."""
    try:
        infotexts = json.loads(generation_info)["infotexts"]
        index = int(img_index)
    except (ValueError, TypeError, KeyError):
        return html_info
    return plaintext_to_html(infotexts[index]) if 0 <= index < len(infotexts) else html_info


def save_files(js_data: str, gallery: list, index: int) -> tuple:
    """Save the selected picture, or all, into the folder of the Save button."""
    from modules import images

    info = json.loads(js_data)
    outdir = Path(shared.opts.outdir_save)
    outdir.mkdir(parents=True, exist_ok=True)
    first = 0
    if index > -1:
        gallery, first = [gallery[index]], index
    saved: list[str] = []
    with (outdir / "log.csv").open("a", encoding="utf8", newline="") as file:
        writer = csv.writer(file)
        for i, data in enumerate(gallery, first):
            image = image_from_url_text(data)
            infotext = info["infotexts"][i]
            parameters = infotext_utils.parse_generation_parameters(infotext)
            path, _ = images.save_image(
                image, str(outdir), "", seed=parameters["Seed"], prompt=parameters["Prompt"],
                extension=shared.opts.samples_format, info=infotext,
            )  # fmt: skip
            saved.append(str(path))
            writer.writerow([parameters["Prompt"], parameters["Seed"], Path(path).name])
    names = ", ".join(Path(path).name for path in saved)
    return gr.File.update(value=saved, visible=True), plaintext_to_html(f"Saved: {names}")


def create_output_panel(tabname: str) -> OutputPanel:
    """Gallery, buttons, generation info and log of a tab."""
    res = OutputPanel()
    with (
        gr.Column(variant="panel", elem_id=f"{tabname}_results"),
        gr.Group(elem_id=f"{tabname}_results_panel"),
    ):
        with gr.Column(variant="panel", elem_id=f"{tabname}_gallery_container"):
            res.gallery = gr.Gallery(
                label="Output", show_label=False, elem_id=f"{tabname}_gallery", columns=4,
                preview=True,
            )  # fmt: skip
        save, send = _image_buttons(tabname, res)
        download_files = gr.File(
            None, file_count="multiple", interactive=False, show_label=False, visible=False,
            elem_id=f"download_files_{tabname}",
        )  # fmt: skip
        with gr.Group():
            res.infotext = gr.HTML(elem_id=f"html_info_{tabname}", elem_classes="infotext")
            res.html_log = gr.HTML(elem_id=f"html_log_{tabname}", elem_classes="html-log")
            res.generation_info = gr.Textbox(visible=False, elem_id=f"generation_info_{tabname}")
            _connect_info_button(tabname, res)
    save.click(
        fn=save_files,
        _js="(x, y, z) => [x, y, selected_gallery_index()]",
        inputs=[res.generation_info, res.gallery, res.infotext],
        outputs=[download_files, res.html_log],
        show_progress=False,
    )
    for target, button in send.items():
        infotext_utils.register_paste_params_button(
            infotext_utils.ParamBinding(
                paste_button=button,
                tabname=target,
                source_tabname="txt2img" if tabname == "txt2img" else None,
                source_image_component=res.gallery,
                paste_field_names=getattr(scripts, f"scripts_{tabname}").paste_field_names,
            )  # fmt: skip
        )
    return res


def _image_buttons(tabname: str, res: OutputPanel) -> tuple[Any, dict[str, Any]]:
    targets = {"img2img": "▣", "inpaint": "✎"}
    with gr.Row(elem_id=f"image_buttons_{tabname}", elem_classes="image-buttons"):
        save = ToolButton(save_symbol, elem_id=f"save_{tabname}", tooltip="Save the picture")
        send = {
            name: ToolButton(sign, elem_id=f"{tabname}_send_to_{name}", tooltip=f"Send to {name}")
            for name, sign in targets.items()
        }
        if tabname == "txt2img":
            res.button_upscale = ToolButton(
                upscale_symbol, elem_id=f"{tabname}_upscale",
                tooltip="Make an upscaled version of the current picture",
            )  # fmt: skip
    return save, send


def _connect_info_button(tabname: str, res: OutputPanel) -> None:
    button = gr.Button(visible=False, elem_id=f"{tabname}_generation_info_button")
    button.click(
        fn=update_generation_info,
        _js="(x, y, z) => [x, y, selected_gallery_index()]",
        inputs=[res.generation_info, res.infotext, res.infotext],
        outputs=[res.infotext],
        show_progress=False,
    )


def create_refresh_button(
    refresh_component: Any,
    refresh_method: Callable[[], Any],
    refreshed_args: dict | Callable[[], dict],
    elem_id: str | None,
) -> ToolButton:
    """Button that calls a method and updates components with new arguments."""
    given = refresh_component if isinstance(refresh_component, list) else [refresh_component]

    def refresh() -> Any:
        refresh_method()
        args = refreshed_args() if callable(refreshed_args) else refreshed_args
        for name, value in args.items():
            for component in given:
                setattr(component, name, value)
        updates = [gr.update(**args) for _ in given]
        return updates if len(updates) > 1 else updates[0]

    label = getattr(given[0], "label", None)
    button = ToolButton(
        value=refresh_symbol, elem_id=elem_id, tooltip=f"{label}: refresh" if label else "Refresh"
    )
    button.click(fn=refresh, inputs=[], outputs=given)
    return button
