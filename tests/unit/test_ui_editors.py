"""What the editors of maps ask the server."""

from __future__ import annotations

import os

import pytest

from lib_controlnet.errors import ControlNetError
from lib_controlnet.ui import editors
from lib_controlnet.words import EDITORS, PAGE


def test_the_texts_come_when_an_editor_is_opened() -> None:
    assert editors.answer_editor({"do": "words"}, None) == {"value": dict(EDITORS)}
    assert not EDITORS.keys() & PAGE.keys()


@pytest.mark.parametrize("asked", [{}, {"do": None}, {"do": "no such thing"}, {"do": ["words"]}])
def test_what_nobody_knows_is_refused_with_a_sentence(asked: dict) -> None:
    assert editors.answer_editor(asked, None) == {"fault": EDITORS["editor_unknown"]}


def test_an_error_reaches_the_editor(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(value: object, _runtime: object) -> None:
        if value is None:
            raise KeyError(value)
        msg = f"{value} is no pose"
        raise ControlNetError(msg)

    monkeypatch.setattr(editors, "ASKS", {"pose": refuse})

    assert editors.answer_editor({"do": "pose", "value": 3}, None) == {"fault": "3 is no pose"}
    assert editors.answer_editor({"do": "pose"}, None) == {"fault": "KeyError: None"}


def test_another_file_has_another_stamp(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(editors, "FOLDER", tmp_path)
    assert editors.stamp() == ""  # no file at all keeps nobody from starting
    file = tmp_path / "one.mjs"
    file.write_text("1")
    first = editors.stamp()
    os.utime(file, (2_000_000_000, 2_000_000_000))

    assert "" != first != editors.stamp()
