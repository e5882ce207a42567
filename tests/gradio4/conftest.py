"""The panel alone on a page of gradio 4, among what it looks for on a host's page."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from browsers import FORGET_STORED, start_browser
from panels import FakeRuntime
from servers import free_port
from small_canvas import SmallCanvas

from lib_controlnet.files.catalog import Catalog
from lib_controlnet.presets.store import Presets
from lib_controlnet.ui import host_tab
from lib_controlnet.ui.gradios import HAS_DRAWING
from lib_controlnet.ui.movie import build_movie_panel
from lib_controlnet.ui.panel import build_panel

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = (
    ROOT / "minihost/javascript/host.js",
    ROOT / "tests/data/small_canvas.js",
    *sorted((ROOT / "javascript").glob("*.js")),
)
EDITORS = ROOT / "javascript" / "editors"
ADDRESS = f"location.origin + {json.dumps(f'/file={EDITORS.parent}/')}"
"""Where a page finds the scripts that it loads later: these were not loaded from anywhere."""
TABS = ("txt2img", "img2img")
PASTED = {"control_type": "Canny", "module": "canny", "processor_res": 640, "threshold_a": 64}
MODES = ("img2img_image", "img2img_sketch", "img2maskimg", "inpaint_sketch")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave these tests out where gradio draws by itself: the other suites are for that."""
    if HAS_DRAWING:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="needs gradio 4: dev.py test --forge-like"))


class Site:
    """The page that is served.

    Attributes:
        url: its address.
        taken: what the last Generate handed over.
    """

    def __init__(self, runtime: FakeRuntime) -> None:
        self.taken: list[Any] = []
        self._arrived = threading.Event()
        with gr.Blocks(analytics_enabled=False) as self.demo, gr.Tabs(elem_id="tabs"):
            for tab in TABS:
                with gr.Tab(tab, elem_id=f"tab_{tab}"):
                    self._build(tab, runtime)
        port = free_port()
        self.demo.queue()
        how = {"quiet": True, "show_api": False, "allowed_paths": [str(EDITORS)]}
        self.demo.launch(prevent_thread_lock=True, server_port=port, **how)
        self.url = f"http://127.0.0.1:{port}"

    def _build(self, tab: str, runtime: FakeRuntime) -> None:
        gr.Textbox(elem_id=f"{tab}_prompt")
        for side in ("width", "height"):
            gr.Slider(64, 2048, 128, step=8, elem_id=f"{tab}_{side}")
        gr.Textbox("1", elem_id=f"{tab}_seed")
        if tab == "img2img":
            _build_host_pictures()
        inputs = build_panel(tab == "img2img", tab, runtime)
        if tab == "txt2img":
            _build_paste(inputs[0].unit_widgets)
            inputs = [*inputs, *build_movie_panel(runtime)]
        button, said = gr.Button(elem_id=f"{tab}_generate"), gr.Textbox()
        button.click(self._take, inputs, said)

    def _take(self, *values: Any) -> str:
        self.taken = list(values)
        self._arrived.set()
        return "taken"

    def generate(self, page: Any, tab: str = "txt2img") -> list[Any]:
        """Press Generate; what the scripts get."""
        self._arrived.clear()
        page.click(f"#{tab}_generate")
        for _ in range(600):  # waiting must not stop the page
            page.wait_for_timeout(50)
            if self._arrived.is_set():
                return self.taken
        pytest.fail("nothing arrived")


def _build_paste(widgets: Any) -> None:
    """A button that writes what a text of parameters says."""
    written = [getattr(widgets, name) for name in PASTED]
    gr.Button(elem_id="paste").click(lambda: [*PASTED.values()], [], written)


def _build_host_pictures() -> None:
    with gr.Tabs(elem_id="mode_img2img"):
        for name in MODES:
            with gr.Tab(name):
                SmallCanvas(elem_id=name, scribble_width=1)
        with gr.Tab("Inpaint upload"):
            for name in ("img_inpaint_base", "img_inpaint_mask"):
                gr.Image(type="pil", elem_id=name)
        with gr.Tab("Batch"):
            gr.Textbox(elem_id="img2img_batch_input_dir")
    for name in host_tab.SETTINGS:
        gr.Slider(0, 100, 0, elem_id=name)


@pytest.fixture(scope="session")
def make_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Serves a page, with a canvas or without, under some settings."""
    os.environ["NO_PROXY"] = "127.0.0.1"  # gradio asks its own server whether it is there
    folder = tmp_path_factory.mktemp("models")
    (folder / "control_demo_canny.safetensors").write_bytes(b"x")
    sites = []

    def make(canvas: Any, **options: Any) -> Site:
        presets = Presets(lambda: folder / "presets")
        known = {"units": 2, "own_canvas": canvas, "presets": presets, "options": options}
        sites.append(Site(FakeRuntime(Catalog([folder]), **known)))
        return sites[-1]

    yield make
    for site in sites:
        site.demo.close()


@pytest.fixture(scope="session")
def site(make_site: Any) -> Site:
    """A page of a host with a canvas."""
    return make_site(SmallCanvas)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = start_browser(playwright, "127.0.0.1")
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def profile(browser: Any, site: Site) -> Iterator[Any]:
    """The window that every test opens its pages in.

    The plain page that stays open keeps the process alive in which gradio's scripts are compiled.
    """
    context = browser.new_context(viewport={"width": 1500, "height": 1400})
    context.set_default_timeout(10_000)
    context.new_page().goto(f"{site.url}/config")
    yield context
    context.close()


@pytest.fixture
def open_site(profile: Any) -> Iterator[Any]:
    """Opens pages of a site in which nothing is stored; what they raise fails the test."""
    errors: list[str] = []
    plain = profile.pages[0]

    def go(site: Site, tab: str = "txt2img") -> Any:
        page = profile.new_page()
        for script in SCRIPTS:  # as a page has them: their functions are everybody's
            source = script.read_text(encoding="utf-8")
            text = json.dumps(source.replace("document.currentScript.src", ADDRESS))
            page.add_init_script(f"(0, eval)({text})")
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(site.url, wait_until="domcontentloaded")
        page.wait_for_selector("#txt2img_generate")
        page.add_style_tag(path=ROOT / "style.css")
        page.locator("#tabs > .tab-nav > button").nth(TABS.index(tab)).click()
        page.click(f"#{tab}_controlnet .label-wrap")
        page.wait_for_selector(f"#{tab}_controlnet_ControlNet-0_controlnet_enable_checkbox")
        return page

    yield go
    for page in profile.pages[1:]:
        page.close()
    profile.clear_cookies()
    plain.evaluate(FORGET_STORED)
    assert not errors, f"the page raised: {errors}"


@pytest.fixture
def panel(open_site: Any, site: Site) -> Any:
    """The open panel of txt2img."""
    return open_site(site)
