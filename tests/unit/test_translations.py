"""The files of translations have every text of the panel, its places kept, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lib_controlnet.detect import listing
from lib_controlnet.units.unit import FIELDS
from lib_controlnet.words import WORDS

FOLDER = Path(__file__).resolve().parents[2] / "localizations"
LANGUAGES = ("de_DE", "es_ES", "ja_JP", "zh_CN")
RADIOS = (
    *("control_mode", "resize_mode", "hr_option", "speed", "pulid_mode", "region", "batch_option"),
)
"""Choices whose names are shown as texts; a list shows what is chosen as it is sent."""
PLACE = re.compile(r"\{\w+\}")


def shown() -> set[str]:
    """Everything of the panel that there is to translate."""
    choices = {choice for name in RADIOS for choice in FIELDS[name].choices}
    sliders = {
        slider.label
        for detector in listing.detectors()
        for slider in (detector.resolution, *detector.sliders)
        if slider is not None and slider.visible
    }
    return {*WORDS.values(), *choices, *sliders, listing.ALL}


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    assert len(names) == len(set(names)), "an entry stands there twice"
    return dict(pairs)


def read(language: str) -> dict[str, str]:
    text = (FOLDER / f"{language}.json").read_text(encoding="utf-8")
    return json.loads(text, object_pairs_hook=once)


def test_there_is_a_file_for_each_language() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*")) == sorted(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_translated_and_nothing_else(language: str) -> None:
    texts = read(language)
    assert sorted(shown() - texts.keys()) == []
    assert sorted(texts.keys() - shown()) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_keep_the_places_and_their_edges(language: str) -> None:
    for text, translated in read(language).items():
        assert set(PLACE.findall(text)) == set(PLACE.findall(translated)), text
        assert translated == translated.strip() != "", text


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_is_not_translated_again(language: str) -> None:
    texts = read(language)
    again = {text for text, one in texts.items() if texts.get(one, one) != one}
    assert again == set()
    same = [text for text, one in texts.items() if text == one and len(text.split()) > 1]
    assert set(same) <= {"{size} px", "{tool}: {tab}"}, "left in English"
