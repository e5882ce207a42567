"""Control models load while preprocessors run: once each, in order, and nothing is left running."""

import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lib_controlnet.detect import preprocess
from lib_controlnet.enums import OnError
from lib_controlnet.errors import BrokenCheckpointError, ControlNetError, ImageError, UnitError
from lib_controlnet.pictures.maps import Size
from lib_controlnet.prepare.ahead import LoadingAhead
from lib_controlnet.prepare.units import Preparation, prepare_units
from lib_controlnet.units.request import GenerationRequest
from lib_controlnet.units.unit import parse_unit

BASE = SimpleNamespace(name="base")
SECONDS = 20
"""To wait for another thread before a test is given up."""

NOT_AHEAD = {"cached", "refused"}


class Models:
    """Models by what is to become of them; notes what is done, by which thread."""

    def __init__(self, hold=None):
        self.done = []
        self.hold = hold or {}
        self.threads = set()

    def find_model(self, name):
        return Path(name)

    def remark(self, _name):
        return None

    def can_wait(self, path, _base):
        return path.name not in NOT_AHEAD

    def network(self, path, _base):
        self.threads.add(threading.current_thread())
        self.done.append(f"begin {path}")
        if path.name in self.hold:
            assert self.hold[path.name].wait(SECONDS)
        if path.name in ("broken", "refused"):
            msg = f"{path} is damaged"
            raise BrokenCheckpointError(msg)
        self.done.append(f"load {path}")
        return f"network of {path}"


def unit(index, model, module="canny", **fields):
    image = np.random.default_rng(index).integers(0, 256, (64, 64, 3), np.uint8)
    return parse_unit({"module": module, "model": model, "image": image, **fields}, index)


def prepare(models, *units, comments=None, **changes):
    said = [] if comments is None else comments
    preparation = Preparation(GenerationRequest(Size(64, 64)), models, BASE, **changes)
    return prepare_units(list(units), preparation, said)


@pytest.fixture(autouse=True)
def no_thread_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.fixture
def detect(monkeypatch):
    """Notes when a preprocessor runs; `before` is called then."""
    called = SimpleNamespace(count=0, before=lambda _count: None)
    original = preprocess._detect

    def detected(*args):
        called.count += 1
        called.before(called.count)
        return original(*args)

    monkeypatch.setattr(preprocess, "_detect", detected)
    return called


def test_a_model_is_loaded_while_its_preprocessor_runs_and_the_next_one_too(detect):
    gates = {"a": threading.Event(), "b": threading.Event()}
    models = Models(gates)

    def before(count):
        if count == 1:
            for gate in gates.values():  # neither load can end before the first preprocessor runs
                gate.set()
            while len(models.done) < 4:
                threading.Event().wait(0.01)

    detect.before = before
    made = prepare(models, unit(0, "a"), unit(1, "b"))
    assert [one.model.held for one in made] == ["network of a", "network of b"]
    assert models.done == ["begin a", "load a", "begin b", "load b"]
    assert models.threads.isdisjoint({threading.current_thread()})


@pytest.mark.parametrize("names", [["a", "b", "a"], ["a", "a"], ["cached", "a"], ["cached"]])
def test_files_are_asked_for_in_the_order_of_units_and_loaded_once(names):
    models = Models()
    made = prepare(models, *(unit(i, name) for i, name in enumerate(names)))
    assert [one.model.held for one in made] == [f"network of {name}" for name in names]
    loaded = [one for one in models.done if one.startswith("load")]
    wanted = [f"load {name}" for name in names]
    assert sorted(loaded) == sorted(wanted)  # what a unit asks for again is the owner's to find
    assert dict.fromkeys(loaded) == dict.fromkeys(wanted)
    in_thread = models.threads - {threading.current_thread()}
    assert len(in_thread) == bool(set(names) - NOT_AHEAD)


FAULTS = {
    "a model": ("broken", "canny", "^unit 1: broken is damaged$"),
    "one that is known not to fit": ("refused", "canny", "^unit 1: refused is damaged$"),
    "a preprocessor": ("b", "nonsense", "^unit 1: Module not available: 'nonsense'"),
    "no model": ("None", "canny", "^unit 1: You have not selected"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_an_error_is_the_same_sentence_at_the_same_unit(case):
    model, module, says = FAULTS[case]
    with pytest.raises(ControlNetError, match=says):
        prepare(Models(), unit(0, "a"), unit(1, model, module), unit(2, "c"))
    comments = []
    three = unit(0, "a"), unit(1, model, module), unit(2, "c")
    made = prepare(Models(), *three, comments=comments, on_error=OnError.SKIP)
    assert [one.model.held for one in made] == ["network of a", "network of c"]
    assert len(comments) == 1
    assert says[1:-1].split(": ", 1)[1] in comments[0]


def test_what_is_wrong_with_the_model_counts_before_the_preprocessors_fault(detect):
    def before(_count):
        msg = "no face"
        raise ImageError(msg)

    detect.before = before
    with pytest.raises(BrokenCheckpointError, match="broken is damaged"):
        prepare(Models(), unit(0, "broken"))
    with pytest.raises(ControlNetError, match="no face"):
        prepare(Models(), unit(0, "a"))


def test_no_preprocessor_runs_for_a_model_that_is_known_not_to_fit(detect):
    with pytest.raises(BrokenCheckpointError):
        prepare(Models(), unit(0, "refused"))
    assert detect.count == 0


def test_a_user_who_stops_gets_nothing(detect):
    asked = []

    def interrupted():
        asked.append(1)
        return len(asked) > 1

    units = unit(0, "a"), unit(1, "b"), unit(2, "c")
    assert prepare(Models(), *units, interrupted=interrupted) == []
    assert detect.count == 1


def test_whatever_ends_it_nothing_more_is_begun():
    ahead = LoadingAhead(models := Models(), BASE)

    def wait(_seconds):
        while not ahead._is_stopped:
            threading.Event().wait(0.01)
        return True

    models.hold = {"b": SimpleNamespace(wait=wait)}
    with pytest.raises(UnitError), ahead.begin([Path("a"), Path("b"), Path("c")]):
        while "begin b" not in models.done:
            threading.Event().wait(0.01)
        msg = "ended"
        raise UnitError(msg)
    assert models.done == ["begin a", "load a", "begin b", "load b"]


def test_each_load_is_handed_out_once_and_then_its_owner_is_asked():
    models = Models()
    ahead = LoadingAhead(models, BASE)
    with ahead.begin([Path("a"), Path("a"), Path("cached")]):
        assert ahead.can_wait(Path("a"), BASE)
        assert not ahead.can_wait(Path("cached"), BASE)
        assert ahead.network(Path("a"), BASE) == "network of a"
        assert not ahead.can_wait(Path("a"), BASE)
        assert ahead.network(Path("a"), SimpleNamespace()) == "network of a"
    assert ahead.network(Path("a"), BASE) == "network of a"
    assert models.done.count("load a") == 3


def test_a_thread_records_no_gradients_whatever_the_caller_does(monkeypatch):
    seen = []
    models = Models()
    monkeypatch.setattr(
        models, "network", lambda _path, _base: seen.append(torch.is_grad_enabled())
    )
    ahead = LoadingAhead(models, BASE)
    with torch.enable_grad(), ahead.begin([Path("a")]):
        ahead._loads[Path("a")].is_over.wait(SECONDS)
    assert seen == [False]
