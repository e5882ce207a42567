"""Preprocessors that give embeddings, and units that bring them along."""

from __future__ import annotations

import base64
import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save
from sessions import FakeHost, info, prepared
from support import tiny_base

from annotator.embedding import FACE, HIDDEN, IMAGE_EMBEDS, LAST, Embedding
from annotator.registry import REGISTRY, Detected, Detector, Frame, Output
from lib_controlnet.api.detection import Asked, as_text, detect_all
from lib_controlnet.detect.preprocess import run_preprocessor
from lib_controlnet.engine.bound import bind_unit
from lib_controlnet.engine.network import ControlNetwork, Guide, GuideKind
from lib_controlnet.enums import BaseModel
from lib_controlnet.errors import ControlNetError, UnitError
from lib_controlnet.limits import MAX_EMBEDDED, MAX_MERGED
from lib_controlnet.pictures.maps import Size
from lib_controlnet.prepare.embeddings import read_embeddings
from lib_controlnet.prepare.units import Preparation, prepare_units
from lib_controlnet.units.batch import BatchSource
from lib_controlnet.units.plan import plan
from lib_controlnet.units.request import GenerationRequest
from lib_controlnet.units.unit import parse_unit

WHERE = "unit 0: ipadapter_input"


class Mean(Detector):
    """The mean colour of a picture as its embedding."""

    name = "mean-colour"
    tags = ("IP-Adapter",)
    frame = Frame.AS_GIVEN
    output = Output.EMBEDDING
    several = True

    def detect(self, image: np.ndarray) -> Detected:
        mean = torch.from_numpy(image[:, :, :3].mean((0, 1))).float()[None]
        return Detected(image, embedding=Embedding({IMAGE_EMBEDS: mean}, self.name))


class Follower(Mean):
    """Whatever the model asks for."""

    name = "mean-auto"
    follows_model = True


class Reader(ControlNetwork):
    """A network that keeps what it is bound with."""

    name, family, base, layers = "reader", "Reader", BaseModel.SD1, 1
    wants = Guide(GuideKind.EMBEDDING, tensors=((IMAGE_EMBEDS, 3),), preprocessor=Mean.name)

    def __init__(self) -> None:
        self.module = torch.nn.Module()
        self.bound: list[Any] = []

    def bind(self, terms: Any, guide: Any, info: Any) -> Any:
        self.bound.append((terms.guide_key, guide))
        return SimpleNamespace(terms=terms)


@pytest.fixture(autouse=True)
def detectors() -> Iterator[None]:
    for one in (Mean(), Follower()):
        REGISTRY.add(one)
    yield
    for one in (Mean, Follower):
        REGISTRY.remove(one.name)


def shade(level: int) -> np.ndarray:
    return np.full((8, 12, 3), level, np.uint8)


class Models:
    """One model, whose network is `Reader`."""

    def __init__(self) -> None:
        self.reader = Reader()

    def find_model(self, name: str) -> Path:
        return Path(f"{name}.safetensors")

    def remark(self, _name: str) -> None:
        return None

    def can_wait(self, _path: Path, _base: Any) -> bool:
        return True

    def network(self, _path: Path, _base: Any) -> Reader:
        return self.reader


def prepare(fields: dict[str, Any], comments: list[str] | None = None) -> tuple[Any, Models]:
    models = Models()
    preparation = Preparation(GenerationRequest(Size(64, 64)), models, tiny_base("SD1"))
    unit = parse_unit({"model": "m", "module": Mean.name, **fields})
    planned = plan([unit], BatchSource(), takes_several=lambda one: one.module == Mean.name)
    said = [] if comments is None else comments
    return prepare_units(planned.at(0), preparation, said)[0], models


def levels(made: Any) -> list[list[float]]:
    return [[float(one.tensors[IMAGE_EMBEDS][0, 0]) for one in f] for f in made.embeddings]


SEVERAL = {
    "one": ({"image": shade(5)}, [[5.0]]),
    "objects": ({"image": [{"image": shade(5)}, {"image": shade(9)}]}, [[5.0, 9.0]]),
    "merge": ({"input_mode": "merge", "batch_images": [shade(5), shade(9)]}, [[5.0, 9.0]]),
    "given": ({"ipadapter_input": [[1.0, 2.0, 3.0]]}, [[1.0]]),
}


@pytest.mark.parametrize("form", SEVERAL)
def test_pictures_of_a_unit_become_embeddings_and_reach_the_network(form: str) -> None:
    fields, expected = SEVERAL[form]
    made, models = prepare({"weight": 0.8, **fields})
    assert levels(made) == expected
    assert made.unit.weight == 0.8
    assert len(made.pictures) == (0 if form == "given" else len(expected[0]))
    host, base = FakeHost(), tiny_base("SD1")
    bind_unit(made, info(base), host, print)
    ((key, guide),) = models.reader.bound
    assert guide is made.embeddings
    again, others = prepare({"weight": 0.8, **fields})
    bind_unit(again, info(base), host, print)
    assert others.reader.bound[0][0] == key


def test_what_a_network_cannot_read_is_refused_by_name() -> None:
    unit = prepared(Reader())
    for embeddings, sentence in (
        ((), "the preprocessor none gives a map; choose the preprocessor mean-colour"),
        (((Embedding({HIDDEN: torch.ones(1, 2, 3)}, "other"),),), "that of other has none"),
        (((Embedding({IMAGE_EMBEDS: torch.ones(1, 4)}),),), "of 3 numbers, the one given has 4"),
    ):
        unit.embeddings = embeddings
        with pytest.raises(UnitError, match=sentence):
            bind_unit(unit, info(tiny_base("SD1")), FakeHost(), print)


def test_embeddings_beside_a_map_are_said_and_several_pictures_refused() -> None:
    comments: list[str] = []
    fields = {"module": "canny", "ipadapter_input": [[1.0]], "image": shade(5)}
    made, _models = prepare(fields, comments)
    assert not made.embeddings
    assert comments == [
        "ControlNet unit 0: ipadapter_input is ignored: the preprocessor canny makes a map"
    ]
    several = [{"image": shade(5)}, {"image": shade(9)}]
    with pytest.raises(UnitError, match="2 images are given, this preprocessor takes one"):
        prepare({"module": "canny", "image": several})
    with pytest.raises(UnitError, match=f"at most {MAX_MERGED} can act together"):
        prepare({"image": several * 20})


def test_the_model_chooses_the_preprocessor(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"m.safetensors": Mean.name, "other.safetensors": ""}
    monkeypatch.setattr("lib_controlnet.families.preprocessor_for", lambda path: answers[path.name])
    auto = {"module": Follower.name, "image": shade(5)}
    made, _models = prepare(auto)
    assert made.unit.module == Mean.name
    assert made.embeddings[0][0].maker == Mean.name
    with pytest.raises(UnitError, match="mean-auto knows no preprocessor for other"):
        prepare({**auto, "model": "other"})


def text_of(**tensors: torch.Tensor) -> str:
    return base64.b64encode(save(tensors)).decode()


ONE = torch.arange(4.0)
GIVEN = {
    "vector": ([0.0, 1.0, 2.0, 3.0], IMAGE_EMBEDS, 1, (1, 4)),
    "the same as a face": ([0.0, 1.0, 2.0, 3.0], FACE, 1, (1, 4)),
    "list of one": ([[0.0, 1.0, 2.0, 3.0]], IMAGE_EMBEDS, 1, (1, 4)),
    "two": ([[0.0, 1.0], [2.0, 3.0]], IMAGE_EMBEDS, 2, (1, 2)),
    "tokens": ([[[0.0, 1.0], [2.0, 3.0]]], HIDDEN, 1, (1, 2, 2)),
    "tokens as a batch": ([[[[0.0, 1.0], [2.0, 3.0]]]], LAST, 1, (1, 2, 2)),
    "named": ({HIDDEN: [[0.0, 1.0]]}, HIDDEN, 1, (1, 1, 2)),
    "named, in a list": ([{IMAGE_EMBEDS: [0.0, 1.0]}] * 2, IMAGE_EMBEDS, 2, (1, 2)),
    "text": (text_of(**{IMAGE_EMBEDS: ONE[None]}), IMAGE_EMBEDS, 1, (1, 4)),
    "texts": ([text_of(**{HIDDEN: ONE[None, None].half()})] * 2, HIDDEN, 2, (1, 1, 4)),
    "tensor": (ONE.double(), IMAGE_EMBEDS, 1, (1, 4)),
    "array": ([np.arange(4.0)], IMAGE_EMBEDS, 1, (1, 4)),
}


@pytest.mark.parametrize("form", GIVEN)
def test_embeddings_are_taken_in_every_form(form: str) -> None:
    given, name, count, shape = GIVEN[form]
    found = read_embeddings(given, WHERE)
    assert [one.tensors[name].shape for one in found] == [shape] * count
    assert found[0].tensors[name].dtype is torch.float32
    assert torch.equal(found[0].tensors[name].flatten(), torch.arange(float(np.prod(shape))))


class Bomb:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("it was unpickled",)


def torch_text() -> str:
    stream = io.BytesIO()
    torch.save({"image_embeds": Bomb()}, stream)
    return base64.b64encode(stream.getvalue()).decode()


LONG = np.broadcast_to(np.zeros(1, np.float32), (MAX_EMBEDDED + 1,))
WRONG = {
    "pickle": (torch_text(), "is a file of torch"),
    "bare pickle": (base64.b64encode(pickle.dumps(Bomb())).decode(), "is a file of torch"),
    "words": ("hello there", "is no embedding: expected base64"),
    "cut": (text_of(x=ONE)[:40], "is no embedding"),
    "empty": ("", "is no embedding"),
    "many": ([[1.0]] * (MAX_MERGED + 1), f"has {MAX_MERGED + 1} embeddings"),
    "uneven": ([[[1.0, 2.0], [3.0]]], "is no tensor"),
    "words inside": ([["a", "b"]], "is no tensor"),
    "nan": ([[float("nan")]], "not finite"),
    "number": ({HIDDEN: 3}, "hidden_states is 3"),
    "deep": ([[[[[1.0]]]]], "which is no embedding"),
    "nothing": ([[]], "which is no embedding"),
    "no names": ({}, "must have names"),
    "long array": (LONG, "has more than"),
    "long text": ("A" * (MAX_EMBEDDED * 6), "has more than"),
}


@pytest.mark.parametrize("form", WRONG)
def test_what_is_no_embedding_is_refused_with_a_sentence(form: str) -> None:
    given, sentence = WRONG[form]
    with pytest.raises(UnitError, match=sentence) as caught:
        read_embeddings(given, WHERE)
    assert str(caught.value).startswith(WHERE)
    assert len(str(caught.value)) < 500


def test_detection_gives_text_that_a_unit_takes() -> None:
    stream = io.BytesIO()
    Image.fromarray(shade(7)).save(stream, "PNG")
    picture = base64.b64encode(stream.getvalue()).decode()
    asked = Asked(Mean.name, [picture], [], None, None, None)
    runtime = SimpleNamespace(
        detect=lambda name, image, *_: run_preprocessor(name, image), decoded=None
    )
    found = detect_all(runtime, None, None, asked)
    assert found.images == []
    (text,) = found.tensors
    assert torch.equal(load(base64.b64decode(text))[IMAGE_EMBEDS], torch.full((1, 3), 7.0))
    assert read_embeddings(text, WHERE)[0].digest == read_embeddings([text], WHERE)[0].digest
    many = Asked(Mean.name, [picture] * (MAX_MERGED + 1), [], None, None, None)
    with pytest.raises(ControlNetError, match=f"at most {MAX_MERGED} at a time"):
        detect_all(runtime, None, None, many)
    whole = Embedding({HIDDEN: torch.ones(2, 3, 4).transpose(1, 2)})
    assert read_embeddings(as_text(whole), WHERE)[0].digest == whole.digest
