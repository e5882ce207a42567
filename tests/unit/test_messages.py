"""Lines of messages: kinds, detail on request, and the panel's own words."""

from __future__ import annotations

from pathlib import Path

import pytest
from panels import FakeRuntime, build

from lib_controlnet.files.catalog import Catalog
from lib_controlnet.ui.messages import Fault, Info, Misfit, Said, as_html, cut, notice
from lib_controlnet.units.unit import FIELDS
from lib_controlnet.words import LABELS

LONG = "is 'abc', must be a list of numbers, one per layer, or one of normal, style, composition"


@pytest.mark.parametrize("kind", [Info, Misfit, Fault])
def test_a_sentence_says_of_what_kind_it_is(kind: type[Said]) -> None:
    assert as_html(kind("a < b")) == f'<span class="cnet-{kind.kind}">a &lt; b</span>'
    assert as_html("a < b", kind("c")).startswith("a &lt; b<br><span")
    assert notice(kind("c"))["visible"] is True
    assert notice()["visible"] is False


def test_detail_stands_behind_more() -> None:
    said = Fault("The preprocessor canny failed.")
    said.detail = "ValueError: <b>"
    assert as_html(said) == (
        '<span class="cnet-error">The preprocessor canny failed.</span><details class="cnet-more">'
        "<summary>more</summary>ValueError: &lt;b&gt;</details>"
    )


@pytest.mark.parametrize(
    ("text", "shown", "detail"),
    [
        ("short; and so whole (all of it)", "short; and so whole (all of it)", ""),
        (f"Module not available: 'no' is no preprocessor here; {LONG * 2}",
         "Module not available: 'no' is no preprocessor here", LONG * 2),
        (f"preprocessor canny failed (ValueError: {LONG * 2})",
         f"preprocessor canny failed (ValueError: {LONG * 2})", ""),
        (f"the preprocessor lineart_anime_denoise failed in the end (ValueError: {LONG * 2})",
         "the preprocessor lineart_anime_denoise failed in the end", f"(ValueError: {LONG * 2})"),
        ("x" * 500, "x" * 500, ""),
    ],
)  # fmt: skip
def test_a_long_sentence_is_cut_where_its_detail_begins(text: str, shown: str, detail: str) -> None:
    said = cut(text)
    assert (said, said.detail) == (shown, detail)


def test_fields_are_called_as_the_panel_calls_them(tmp_path: Path) -> None:
    shown = build(FakeRuntime(Catalog([tmp_path])))[1][0].widgets.keys() & FIELDS.keys()
    for name in (name for name in shown if "_" in name):
        said = cut(f"ControlNet unit 0: {name} is wrong")
        assert said.removeprefix("ControlNet unit 0: ").removesuffix(" is wrong") in LABELS.values()
