"""The page: tabs, quick settings, and the scripts and styles around them."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr
from modules import (
    gradio_extensions,  # noqa: F401 (patches gradio when imported)
    images,
    infotext_utils,
    script_callbacks,
    scripts,
    shared,
    ui_common,
    ui_extensions,
    ui_gradio_page,
    ui_settings,
)
from modules.call_queue import wrap_gradio_call
from modules.ui_common import create_refresh_button, plaintext_to_html
from modules.ui_img2img import Img2ImgTab
from modules.ui_txt2img import Txt2ImgTab

PAGE_TITLE = "Small WebUI host, for trying and testing"


def run_pnginfo(image: Any) -> tuple[str, str, str]:
    """Read the infotext of a picture."""
    if image is None:
        return "", "", ""
    geninfo, items = images.read_info_from_image(image)
    items = {"parameters": geninfo, **items} if geninfo else items
    parts = [
        f"<div><p><b>{plaintext_to_html(str(key))}</b></p>{plaintext_to_html(str(text))}</div>"
        for key, text in items.items()
    ]
    return "", geninfo or "", "\n".join(parts) or "<div><p>Nothing found in the image.</p></div>"


def create_pnginfo() -> gr.Blocks:
    """Build the tab PNG Info."""
    with gr.Blocks(analytics_enabled=False) as interface, gr.Row(equal_height=False):
        with gr.Column(variant="panel"):
            image = gr.Image(
                elem_id="pnginfo_image", label="Source", source="upload", interactive=True,
                type="pil", image_mode="RGBA",
            )  # fmt: skip
        with gr.Column(variant="panel"):
            info_html = gr.HTML()
            generation_info = gr.Textbox(visible=False, elem_id="pnginfo_generation_info")
            details = gr.HTML()
            with gr.Row():
                buttons = infotext_utils.create_buttons(["txt2img", "img2img", "inpaint"])
            for tabname, button in buttons.items():
                infotext_utils.register_paste_params_button(
                    infotext_utils.ParamBinding(
                        paste_button=button,
                        tabname=tabname,
                        source_text_component=generation_info,
                        source_image_component=image,
                    )  # fmt: skip
                )
        image.change(
            fn=wrap_gradio_call(run_pnginfo), inputs=[image],
            outputs=[info_html, generation_info, details],
        )  # fmt: skip
    return interface


def _build_tab(tab: Any, name: str, is_img2img: bool) -> gr.Blocks:
    runner = scripts.scripts_img2img if is_img2img else scripts.scripts_txt2img
    scripts.scripts_current = runner
    runner.initialize_scripts(is_img2img=is_img2img)
    del name
    return tab.build()


def create_ui() -> gr.Blocks:
    """Build the whole page and return it, not yet served."""
    ui_gradio_page.install()
    infotext_utils.reset()
    settings = ui_settings.UiSettings()
    settings.register_settings()
    try:
        txt2img = _build_tab(Txt2ImgTab(), "txt2img", is_img2img=False)
        img2img = _build_tab(Img2ImgTab(), "img2img", is_img2img=True)
    finally:
        scripts.scripts_current = None
    pnginfo = create_pnginfo()
    settings.create_ui()
    interfaces = [(txt2img, "txt2img", "txt2img"), (img2img, "img2img", "img2img")]
    interfaces.append((pnginfo, "PNG Info", "pnginfo"))
    interfaces += script_callbacks.ui_tabs_callback()
    interfaces.append((settings.interface, "Settings", "settings"))
    if not shared.cmd_opts.disable_extension_access:
        interfaces.append((ui_extensions.create_ui(), "Extensions", "extensions"))
    with gr.Blocks(theme=ui_gradio_page.theme(), analytics_enabled=False, title=PAGE_TITLE) as demo:
        settings.add_quicksettings()
        infotext_utils.connect_paste_params_buttons()
        with gr.Tabs(elem_id="tabs"):
            for interface, label, ifid in interfaces:
                with gr.TabItem(label, id=ifid, elem_id=f"tab_{ifid}"):
                    interface.render()
        gr.HTML(f"<div>{html.escape(PAGE_TITLE)}</div>", elem_id="footer")
        settings.add_functionality(demo)
    return demo


__all__ = ["create_refresh_button", "create_ui", "plaintext_to_html", "ui_common"]
