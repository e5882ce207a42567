"""A running WebUI and a real browser, started once for the whole suite."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import downloads_probe
import httpx
import numpy as np
import pytest
from browsers import FORGET_STORED, start_browser
from fuzz import soak
from hub_server import Hub, local_hub
from matrix import members
from panel_page import FIRST_VALUES, open_panel, set_number, start_over
from PIL import Image
from servers import embedded_host

DEFAULT_CFG = 7
"""Guidance of a request that names none."""


@dataclass
class WebUI:
    """A WebUI over HTTP, whether we started it or were given its address.

    Attributes:
        url: its address.
        log_file: what it writes; None for one that we did not start.
        hub: what stands for the hub to one that we started.
    """

    url: str
    log_file: Path | None = None
    hub: Hub | None = None
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=self.url, timeout=600, trust_env=False)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.client.get(path, **options)

    def post(self, path: str, payload: dict | None = None, **options: Any) -> httpx.Response:
        return self.client.post(path, json=self._fit(payload or {}), **options)

    def _fit(self, payload: Any) -> Any:
        """A request as the WebUI needs it: hires has a guidance of its own in some."""
        if not isinstance(payload, dict) or not payload.get("enable_hr"):
            return payload
        more = {**members.FIELDS[members.FORGE], "hr_cfg": payload.get("cfg_scale", DEFAULT_CFG)}
        return {name: value for name, value in more.items() if name in self.fields} | payload

    @cached_property
    def fields(self) -> frozenset[str]:
        """What a request for a picture may have here."""
        if self.is_ours:
            return frozenset()
        schemas = self.get("/openapi.json").json()["components"]["schemas"]
        return frozenset(schemas["StableDiffusionProcessingTxt2Img"]["properties"])

    def generate(self, route: str, **payload: Any) -> dict:
        """POST to /sdapi/v1/<route> and give back the answer, failing with the server's words."""
        answer = self.post(f"/sdapi/v1/{route}", payload)
        assert answer.status_code == 200, f"{answer.status_code}: {answer.text[:2000]}"
        return answer.json()

    def log(self) -> str:
        """Everything the server wrote so far; empty for a server that we did not start."""
        if self.log_file is None:
            return ""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    @property
    def is_ours(self) -> bool:
        """Whether this is the embedded host, started by these tests."""
        return self.log_file is not None


@pytest.fixture(scope="session")
def webui(request: pytest.FixtureRequest, tmp_path_factory) -> Iterator[WebUI]:
    """The WebUI under test: the embedded host in a process of its own, or --webui-url."""
    address = request.config.getoption("--webui-url")
    if address:
        yield WebUI(address.rstrip("/"))
        return
    data = tmp_path_factory.mktemp("webui")
    soak.install(data)
    downloads_probe.install(data)
    weights = ("--controlnet-annotator-models-path", str(data / "weights"))
    with (
        local_hub() as hub,
        downloads_probe.environment(hub),
        embedded_host(data, *weights) as server,
    ):
        webui = WebUI(server.url, server.log_file, hub)
        request.config.stash[SERVER] = webui
        try:
            yield webui
        finally:
            webui.client.close()


@pytest.fixture(autouse=True)
def _limit(request: pytest.FixtureRequest) -> None:
    """Leave out what the WebUI cannot do, with and without us."""
    if request.config.getoption("--webui-url"):
        fields = request.getfixturevalue("webui").fields
        reason = members.find_limit_of_test(fields, request.node.name)
        if reason:
            pytest.skip(reason)


SERVER: pytest.StashKey[WebUI] = pytest.StashKey()
FAILED: pytest.StashKey[bool] = pytest.StashKey()
"""Of a test in whose page anything may stand by now."""


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """Show the end of the server's log under a failed test, and note that it failed."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        item.stash[FAILED] = True
    server = item.config.stash.get(SERVER, None)
    if report.failed and server is not None:
        report.sections.append(("log of the embedded host", server.log()[-4000:]))


@pytest.fixture(scope="session")
def browser(webui: WebUI) -> Iterator[Any]:
    """A headless Chromium driven by playwright, from which nothing but the WebUI is reachable."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = start_browser(playwright, httpx.URL(webui.url).host)
        yield browser
        browser.close()


PLAIN_ROUTE = "/sdapi/v1/samplers"
"""A page of any WebUI that runs no script."""

A1111_PAGE_ERRORS = (
    "Cannot read properties of undefined (reading 'props')",
    "recalculate_prompts_inpaint is not defined",
)
"""Raised by A1111 1.10.1 itself, without extensions: whenever a size box loses the focus, and when
PNG Info sends parameters to the inpaint tab."""

GRADIO_PAGE_ERROR = "Failed to execute 'drawImage' on 'CanvasRenderingContext2D'"
"""Raised by gradio 3.41.2's own sketch widget when its picture is taken away while it draws."""

SLOWER_TIMER = """
  const start = window.setTimeout;
  window.setTimeout = (run, time, ...rest) => start(run, time === 10 ? 150 : time, ...rest);
"""
"""Lets gradio 3.41.2 size the host's own drawing canvases however busy the machine is: it forgets
them when its timer of 10 ms runs before a resize observer (javascript/controlnet_canvas.js)."""

FEWER_FRAMES = """
  const frame = window.requestAnimationFrame.bind(window);
  let links = 0; // of the chain of frames that the present one belongs to
  window.requestAnimationFrame = (run) => {
    const own = links + 1;
    const draw = (now) => {
      links = own;
      try { run(now); } finally { links = 0; }
    };
    return own > 30 ? window.setTimeout(() => frame(draw), 200) : frame(draw);
  };
"""
"""A frame now and then for what asks for each, from each, without an end: gradio 3.41.2's drawing
canvases do, also those that are gone, and all else in the page is looked at for every frame."""

VIEWPORT = {"width": 1500, "height": 1400}
"""Of every page as it is opened."""


@pytest.fixture(scope="session")
def profile(browser: Any, webui: WebUI) -> Iterator[Any]:
    """A person's browser window: every test opens a page of its own in it.

    The plain page that stays open keeps the process alive in which the host's scripts are compiled:
    for the pages after the first that is a third of their time.
    """
    context = browser.new_context(viewport=VIEWPORT)
    context.set_default_timeout(60_000)
    context.new_page().goto(f"{webui.url}{PLAIN_ROUTE}")
    yield context
    context.close()


def forget(profile: Any) -> None:
    """Leave nothing of earlier pages: none is open, nothing is stored in the browser."""
    plain, *pages = profile.pages
    for page in pages:
        page.close()
    profile.clear_cookies()
    plain.evaluate(FORGET_STORED)


@dataclass
class OpenPage:
    """A browser page on the WebUI, the errors that it raised, and whether a test has had it."""

    page: Any
    webui: WebUI
    errors: list[str] = field(default_factory=list)
    is_used: bool = False

    def check(self) -> None:
        """Fail if the page raised errors, but for those of the host and of gradio themselves."""
        errors = [error for error in self.errors if not error.startswith(GRADIO_PAGE_ERROR)]
        self.errors.clear()
        if not self.webui.is_ours:
            errors = [error for error in errors if error not in A1111_PAGE_ERRORS]
        assert not errors, f"the page raised: {errors}"


def open_page(profile: Any, webui: WebUI, *scripts: str, query: str = "") -> OpenPage:
    """The WebUI in a fresh page, nothing of earlier ones left; scripts run before its own."""
    forget(profile)
    opened = OpenPage(profile.new_page(), webui)
    for script in (SLOWER_TIMER, FEWER_FRAMES, *scripts):
        opened.page.add_init_script(script)
    opened.page.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.page.goto(f"{webui.url}/{query}", wait_until="domcontentloaded")
    opened.page.wait_for_selector("#txt2img_generate", timeout=120_000)
    opened.page.evaluate(FIRST_VALUES)
    return opened


@pytest.fixture(scope="module")
def page_scripts() -> tuple[str, ...]:
    """What runs in the pages of a file's tests before their own scripts; a file may say more."""
    return ()


@pytest.fixture
def page_query() -> str:
    """What a page is asked for with, from its "?" on; a test's parameter may say more."""
    return ""


@pytest.fixture(scope="session")
def kept_pages() -> list[OpenPage]:
    """The page that tests hand on, if there is one."""
    return []


@pytest.fixture(scope="session")
def looks() -> dict[str, list[str]]:
    """What the panel of a tab shows in a fresh page, once one has been looked at."""
    return {}


@pytest.fixture
def page(
    request: pytest.FixtureRequest,
    profile: Any,
    webui: WebUI,
    page_scripts: tuple[str, ...],
    page_query: str,
    kept_pages: list[OpenPage],
) -> Iterator[Any]:
    """A fresh browser page on the WebUI, nothing else reachable; console errors fail the test."""
    opened = open_page(profile, webui, *page_scripts, query=page_query)
    yield opened.page
    hand_on(request, opened, kept_pages, page_scripts or page_query)
    opened.check()


def hand_on(
    request: pytest.FixtureRequest, opened: OpenPage, kept: list[OpenPage], is_special: object
) -> None:
    """Keep the page of a test for the next one, unless it is special or raised errors."""
    if is_special or opened.errors or FAILED in request.node.stash:
        opened.page.close()
    opened.is_used = True
    kept[:] = [opened]


HAS_STORED = """async () =>
  localStorage.length > 0 || (await indexedDB.databases()).length > 0"""


@pytest.fixture(scope="module")
def started_file(kept_pages: list[OpenPage]) -> None:
    """Leave nothing in the browser's storage to the tests of another file."""
    for opened in kept_pages:
        if not opened.page.is_closed() and opened.page.evaluate(HAS_STORED):
            opened.page.close()


@pytest.fixture
def kept_page(
    request: pytest.FixtureRequest,
    profile: Any,
    webui: WebUI,
    kept_pages: list[OpenPage],
    started_file: None,
) -> Iterator[Any]:
    """As `page`, but as the tests before left it: a page takes three seconds to open.

    For tests that bring about themselves what they start from. After a failed one it is fresh.
    """
    if not kept_pages or kept_pages[0].page.is_closed():
        kept_pages[:] = [open_page(profile, webui)]
    yield kept_pages[0].page
    (opened,) = kept_pages
    hand_on(request, opened, kept_pages, False)
    opened.check()


def start_kept(
    kept_pages: list[OpenPage], profile: Any, webui: WebUI, looks: dict[str, list[str]], tab: str
) -> Any:
    """The kept page with a tab's panel as a fresh page has it; a fresh page where it is not."""
    (opened,) = kept_pages
    if opened.page.viewport_size != VIEWPORT:
        opened.page.set_viewport_size(VIEWPORT)
    if not start_over(opened.page, tab, looks, not opened.is_used):
        opened.page.close()
        kept_pages[:] = [open_page(profile, webui)]
        start_over(kept_pages[0].page, tab, looks, True)
    return kept_pages[0].page


@pytest.fixture
def start_tab(
    kept_page: Any,
    kept_pages: list[OpenPage],
    profile: Any,
    webui: WebUI,
    looks: dict[str, list[str]],
) -> Callable[[str], Any]:
    """Gives the kept page with a tab's panel as a fresh page has it."""
    return partial(start_kept, kept_pages, profile, webui, looks)


@pytest.fixture
def kept_panel(start_tab: Callable[[str], Any]) -> Any:
    """The panel of txt2img as a fresh page has it, open and a small picture asked for.

    For tests that look at no picture, text or list outside the panel that an earlier one may have
    left in the page.
    """
    page = start_tab("txt2img")
    open_panel(page)
    return page


@pytest.fixture
def panel(kept_panel: Any) -> Any:
    """The panel of txt2img, open and as it is at first; some files have it otherwise."""
    return kept_panel


@pytest.fixture
def kept_img2img(start_tab: Callable[[str], Any]) -> Any:
    """As `kept_panel`, for the panel and the pictures of img2img."""
    page = start_tab("img2img")
    for name, value in (("steps", 2), ("width", 128), ("height", 128)):
        set_number(page, f"#img2img_{name}", value)
    return page


def encode(picture: np.ndarray) -> str:
    """uint8 (H, W[, C]) -> base64 PNG, as the API takes it."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def decode(text: str) -> np.ndarray:
    """base64 picture, with or without a data URL head -> uint8 (H, W, 3), RGB."""
    data = base64.b64decode(text.rsplit(",", maxsplit=1)[-1])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@dataclass(frozen=True)
class Codec:
    """Pictures to and from the API's base64."""

    encode: Any = staticmethod(encode)
    decode: Any = staticmethod(decode)


@pytest.fixture(scope="session")
def codec() -> Codec:
    return Codec()
