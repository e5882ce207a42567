"""Every preprocessor: its declaration, its output's form, and its formula on a photograph."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from annotator import registry as declared
from annotator.registry import Detector, Effect, Frame, Output, Registry, Slider, discover
from lib_controlnet.detect.preprocess import run_preprocessor
from lib_controlnet.engine import effects

ALL = discover().all()
# Those that need neither a download nor a package; the others have tests of their own.
DETECTORS = [d for d in ALL if not (d.weights or d.requires or d.unavailable)]
NAMES = [detector.name for detector in DETECTORS]

# id, label, control types, priority, resolution shown, (label, min, max, step, default) ...
DECLARATIONS = [
    ("none", "none", ("InstructP2P",), 10, True, ()),
    (
        "canny",
        "canny",
        ("Canny",),
        100,
        True,
        (("Low Threshold", 1, 255, 1, 100), ("High Threshold", 1, 255, 1, 200)),
    ),
    (
        "invert",
        "invert (from white bg & black line)",
        ("Canny", "Lineart", "Scribble", "MLSD"),
        20,
        False,
        (),
    ),
    ("threshold", "threshold", (), 0, True, (("Binarization Threshold", 0, 255, 0.01, 127),)),
    (
        "scribble_xdog",
        "scribble_xdog",
        ("Scribble", "SparseCtrl"),
        0,
        True,
        (("XDoG Threshold", 1, 64, 0.01, 32),),
    ),
    (
        "tile_resample",
        "tile_resample",
        ("Tile",),
        100,
        True,
        (("Down Sampling Rate", 1, 8, 0.01, 1),),
    ),
    ("blur_gaussian", "blur_gaussian", ("Tile",), 0, True, (("Sigma", 0.01, 64, 0.01, 9),)),
    ("inpaint_only", "inpaint_only", ("Inpaint",), 100, False, ()),
    (
        "lineart_standard",
        "lineart_standard (from white bg & black line)",
        ("Lineart",),
        100,
        True,
        (),
    ),
    ("color", "t2ia_color_grid", ("T2I-Adapter",), 0, True, ()),
    ("shuffle", "shuffle", ("Shuffle",), 0, False, ()),
    ("inpaint", "inpaint_global_harmonious", ("Inpaint",), 0, False, ()),
]


def picture(height: int = 64, width: int = 96, channels: int = 3) -> np.ndarray:
    """A smooth random picture."""
    noise = np.random.default_rng(7).random((height, width, max(channels, 1)), dtype=np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2).reshape(noise.shape)
    spread = (smooth - smooth.min()) / max(float(np.ptp(smooth)), 1e-6)
    pixels = (spread * 255).astype(np.uint8)
    return pixels if channels else pixels[:, :, 0]


INPUTS = {
    "rgb 64x96": picture(),
    "grey": picture(channels=0),
    "rgba": picture(channels=4),
    "one pixel high": picture(1, 96),
    "one pixel wide": picture(96, 1),
    "one pixel": picture(1, 1),
    "odd sizes": picture(61, 83),
    "flat": np.full((64, 96, 3), 128, np.uint8),
}


@pytest.mark.parametrize("declaration", DECLARATIONS, ids=lambda row: row[0])
def test_declaration_is_what_clients_expect(declaration: tuple) -> None:
    name, label, tags, priority, shows_resolution, sliders = declaration
    detector = discover().get(name)
    assert detector is not None
    assert (detector.name, detector.title) == (name, label)
    assert detector.tags == tags
    assert detector.priority == priority
    given = tuple((s.label, s.minimum, s.maximum, s.step, s.default) for s in detector.sliders)
    assert given == sliders
    if shows_resolution:
        side = detector.resolution
        assert (side.label, side.minimum, side.maximum, side.step, side.default) == (
            *("Resolution", 64, 2048, 8, 512),
        )
    else:
        assert detector.resolution is None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", INPUTS, ids=list(INPUTS))
def test_output_is_a_picture_of_the_declared_kind(name: str, form: str) -> None:
    detector = discover().get(name)
    given = INPUTS[form]
    before = given.copy()
    found = run_preprocessor(name, given, 64)
    masked = detector.output is Output.MASKED
    for array in (found.image, found.display):
        assert array.dtype == np.uint8
        assert array.ndim == 3
        assert array.shape[2] == (4 if masked else 3)
        assert array.flags.c_contiguous
    assert np.array_equal(given, before), "the input was modified"
    height, width = given.shape[:2]
    if detector.frame is not Frame.AS_GIVEN:
        side = 64 if detector.resolution else detector.fixed_resolution
        factor = min(side / min(height, width), 16384 / max(height, width))
        assert found.image.shape[:2] == (round(height * factor), round(width * factor))
        assert found.resolution == side
    again = run_preprocessor(name, given, 64)
    assert np.array_equal(found.image, again.image), "two runs differ"


@pytest.mark.parametrize("name", NAMES)
def test_a_4k_picture_gives_the_map_of_the_declared_size(name: str, photograph: np.ndarray) -> None:
    detector = discover().get(name)
    given = cv2.resize(photograph, (3840, 2160))
    found = run_preprocessor(name, given, 1024).image
    if detector.frame is Frame.AS_GIVEN:
        assert found.shape[:2] == (2160, 3840)
    else:
        side = 1024 if detector.resolution else detector.fixed_resolution
        assert found.shape[:2] == (side, round(3840 * side / 2160))
    assert found[..., :3].std() > 1


@pytest.mark.parametrize("name", NAMES)
def test_extreme_sliders_still_give_a_picture(name: str) -> None:
    detector = discover().get(name)
    for pick in ("minimum", "maximum"):
        values = tuple(getattr(slider, pick) for slider in detector.sliders)
        found = run_preprocessor(name, picture(), 64, values)
        assert found.values == values
        assert min(found.image.shape) > 0


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda d: d.name)
def test_declaration_is_consistent(detector: Detector) -> None:
    assert not detector.unavailable
    for slider in detector.sliders:
        assert slider.label
        assert slider.minimum <= slider.default <= slider.maximum
        assert slider.step > 0
    assert detector.uses_mask or detector.output is not Output.MASKED
    if detector.held_as:
        stands_in = discover().get(detector.held_as)
        assert stands_in is not None
        assert stands_in.effect is Effect.NONE
        assert (stands_in.mask, stands_in.output) == (detector.mask, detector.output)


def test_effects_are_those_of_their_preprocessors() -> None:
    declared_effects = {detector.name: detector.effect for detector in ALL if detector.effect}
    assert declared_effects == {
        "inpaint_only": Effect.INPAINT_ONLY,
        "inpaint_only+lama": Effect.INPAINT_ONLY,
        "tile_colorfix": Effect.TILE_COLORFIX,
        "tile_colorfix+sharp": Effect.TILE_COLORFIX,
        "recolor_luminance": Effect.RECOLOR_LUMINANCE,
        "recolor_intensity": Effect.RECOLOR_INTENSITY,
    }
    carried_out = frozenset().union(*(effect.names for effect in effects.discover()))
    assert carried_out == set(Effect) - {Effect.NONE}, "an effect that nobody carries out is silent"


def test_registry_lists_none_first_then_by_priority_and_label() -> None:
    order = [name for name in NAMES if name in {row[0] for row in DECLARATIONS}]
    assert order == [
        *("none", "tile_resample", "lineart_standard", "inpaint_only", "canny", "invert"),
        *("threshold", "color", "shuffle", "scribble_xdog", "inpaint", "blur_gaussian"),
    ]
    assert not discover().broken


def short_side(image: np.ndarray, resolution: int) -> np.ndarray:
    """The documented resize, written out: cubic up, area down, round half to even."""
    height, width = image.shape[:2]
    k = resolution / min(height, width)
    size = int(np.round(width * k)), int(np.round(height * k))
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC if k > 1 else cv2.INTER_AREA)


def padded(image: np.ndarray) -> np.ndarray:
    bottom, right = -image.shape[0] % 64, -image.shape[1] % 64
    return np.pad(image, ((0, bottom), (0, right), (0, 0)), mode="edge")


@pytest.mark.parametrize("resolution", [64, 200, 512, 700])
def test_canny_equals_opencv_on_the_padded_photograph(
    photograph: np.ndarray, resolution: int
) -> None:
    given = photograph[:300, :411]
    small = short_side(given, resolution)
    expected = cv2.Canny(padded(small), 80, 160)[: small.shape[0], : small.shape[1]]
    found = run_preprocessor("canny", given, resolution, (80.9, 160)).image
    assert np.array_equal(found, np.repeat(expected[:, :, None], 3, axis=2))
    assert 0.01 < (found > 0).mean() < 0.5


def test_canny_takes_the_strongest_channel() -> None:
    """A red and a green field of equal luma meet in an edge that grey conversion would lose."""
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :32, 0], image[:, 32:, 1] = 150, 76
    assert run_preprocessor("canny", image, 64).image.any()


def test_invert_is_the_complement(photograph: np.ndarray) -> None:
    found = run_preprocessor("invert", photograph, 64).image
    assert np.array_equal(found, 255 - photograph)


def test_threshold_needs_all_channels_above_the_level(photograph: np.ndarray) -> None:
    small = short_side(photograph, 128)
    expected = np.where((small.astype(int) > 90.5).all(axis=2), 255, 0)
    found = run_preprocessor("threshold", photograph, 128, (90.5,)).image
    assert np.array_equal(found, np.repeat(expected[:, :, None], 3, axis=2))


@pytest.mark.parametrize(("rate", "size"), [(1, (301, 200)), (1.09, (301, 200)), (2.5, (120, 80))])
def test_tile_resample_reduces_by_the_rate(
    photograph: np.ndarray, rate: float, size: tuple[int, int]
) -> None:
    given = photograph[:200, :301]
    found = run_preprocessor("tile_resample", given, 64, (rate,)).image
    assert found.shape[:2] == (size[1], size[0])
    assert np.array_equal(found, cv2.resize(given, size, interpolation=cv2.INTER_AREA))


def test_blur_is_a_gaussian_of_the_resized_picture(photograph: np.ndarray) -> None:
    small = short_side(photograph, 96)
    x = np.arange(-30, 31)
    kernel = np.exp(-(x**2) / (2 * 4.0**2))
    kernel /= kernel.sum()
    wide = np.pad(small.astype(float), ((30, 30), (30, 30), (0, 0)), mode="reflect")
    rows = np.apply_along_axis(np.convolve, 0, wide, kernel, mode="valid")
    expected = np.apply_along_axis(np.convolve, 1, rows, kernel, mode="valid")
    found = run_preprocessor("blur_gaussian", photograph, 96, (4.0,)).image
    # OpenCV cuts the kernel at three sigma and works in fixed point: one level, two at edges.
    assert np.abs(found - expected).max() <= 2.0
    assert np.abs(found - expected).mean() < 0.5


def test_xdog_follows_its_formula_on_a_photograph(photograph: np.ndarray) -> None:
    small = padded(short_side(photograph, 128)).astype(np.float32)
    fine, coarse = (cv2.GaussianBlur(small, (0, 0), sigma) for sigma in (0.5, 5.0))
    inverted = np.clip(255 - (coarse - fine).min(axis=2), 0, 255).astype(np.uint8)
    expected = np.where(2 * (255 - inverted.astype(int)) > 20, 255, 0)[:128, :128]
    found = run_preprocessor("scribble_xdog", photograph, 128, (20,)).image
    assert np.array_equal(found[:, :, 0], expected)
    assert 0.02 < (found > 0).mean() < 0.6


def test_xdog_keeps_the_strongest_strokes() -> None:
    """A difference of 128 and more wrapped round in the old extension and vanished."""
    image = np.full((64, 64, 3), 255, np.uint8)
    image[29:35] = 0  # about 140 darker than its surroundings; 2 * 140 - 256 is below 32
    found = run_preprocessor("scribble_xdog", image, 64, (32,)).image
    assert (found[30:34, 8:-8] == 255).all()


def test_lineart_standard_follows_its_formula(photograph: np.ndarray) -> None:
    small = padded(short_side(photograph, 200)).astype(np.float32)
    difference = (cv2.GaussianBlur(small, (0, 0), 6.0) - small).min(axis=2).clip(0, 255)
    lines = np.median(difference[difference > 8])
    expected = (difference / max(16, lines) * 127).clip(0, 255).astype(np.uint8)[:200, :200]
    found = run_preprocessor("lineart_standard", photograph, 200).image
    assert np.abs(found[:, :, 0].astype(int) - expected).max() <= 1  # order of the division
    assert found.max() > 40


def test_lineart_standard_of_a_flat_picture_is_black() -> None:
    assert not run_preprocessor("lineart_standard", INPUTS["flat"], 64).image.any()


def test_color_grid_has_one_colour_per_cell(photograph: np.ndarray) -> None:
    found = run_preprocessor("color", photograph[:300, :400], 192).image
    assert found.shape == (192, 256, 3)
    cells = found.reshape(3, 64, 4, 64, 3)
    assert (cells == cells[:, :1, :, :1]).all()
    small = cv2.resize(photograph[:300, :400], (256, 192), interpolation=cv2.INTER_AREA)
    expected = cv2.resize(small, (4, 3), interpolation=cv2.INTER_CUBIC)
    assert np.array_equal(cells[:, 0, :, 0], expected)


def test_shuffle_draws_from_the_seed_as_seeds_always_did(photograph: np.ndarray) -> None:
    rng = np.random.RandomState(123)
    fields = []
    for _ in range(2):
        nodes = rng.uniform(low=0, high=1, size=(512 // 256 + 2, 512 // 256 + 2, 1))
        field = cv2.resize(nodes, (1024, 1024), interpolation=cv2.INTER_CUBIC)[256:768, 256:768]
        field -= field.min()
        fields.append((field / field.max() * 511).astype(np.float32))
    expected = cv2.remap(photograph, *fields, cv2.INTER_LINEAR)
    found = run_preprocessor("shuffle", photograph, 64, seed=123).image
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, run_preprocessor("shuffle", photograph, seed=124).image)


def test_inpaint_shows_the_masked_part_half_transparent() -> None:
    mask = np.zeros((64, 96), np.uint8)
    mask[:20] = 255
    found = run_preprocessor("inpaint_only", picture(), -1, mask=mask)
    assert np.array_equal(found.image[:, :, 3], mask)
    assert np.array_equal(found.image[:, :, :3], picture())
    assert np.array_equal(found.display[:, :, 3], 255 - mask // 2)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("canny", "canny"),
        ("CANNY", "canny"),
        ("None", "none"),
        ("", "none"),
        (None, "none"),
        ("inpaint_global_harmonious", "inpaint"),
        ("invert (from white bg & black line)", "invert"),
        (" Threshold ", "threshold"),
        ("no such thing", None),
    ],
)
def test_get_finds_name_label_and_any_case(text: str | None, name: str | None) -> None:
    found = discover().get(text)
    assert (found.name if found else None) == name


@pytest.mark.parametrize(
    ("value", "expected"),
    [(50, 50), (10, 10), (90, 90), (9.99, 40), (91, 40), (-1, 40), (None, 40), (float("nan"), 40)],
)
def test_slider_out_of_range_gives_the_default(value: float | None, expected: float) -> None:
    assert Slider("Level", 10, 90, 40).settle(value) == expected


def test_slider_logs_wrong_values_but_not_minus_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    slider = Slider("Resolution", 64, 2048, 512, 8)
    slider.settle(-1, "canny.processor_res")
    assert not caplog.messages
    slider.settle(63, "canny.processor_res")
    assert caplog.messages == ["[canny.processor_res] Invalid value(63), using default value 512."]


def test_discover_lists_broken_files_and_loads_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "plugged"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "needs_gone.py").write_text("import package_that_is_not_there\n")
    (package / "fails.py").write_text("raise RuntimeError('cannot start')\n")
    (package / "works.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = Registry()
    found.discover("plugged", [str(package)])
    assert found.broken == {
        "needs_gone": "ModuleNotFoundError: No module named 'package_that_is_not_there'",
        "fails": "RuntimeError: cannot start",
    }
    assert "plugged.works" in sys.modules
    (package / "fails.py").write_text("VALUE = 2\n")
    found.discover("plugged", [str(package)])
    assert list(found.broken) == ["needs_gone"], "a repaired file stays listed as broken"


def test_adding_a_name_twice_is_refused_unless_it_is_a_reload() -> None:
    def made(label: str, qualified: str) -> Detector:
        return type(qualified, (Detector,), {"name": "twice", "label": label})()

    found = Registry()
    found.add(made("first", "One"))
    found.add(made("second", "One"))
    assert [detector.title for detector in found.all()] == ["second"]
    with pytest.raises(ValueError, match="two preprocessors are called 'twice'"):
        found.add(made("third", "Two"))
    found.remove("twice")
    assert not found.all()


@pytest.mark.parametrize("field", ["frame", "output", "mask", "effect"])
def test_word_where_an_enum_belongs_is_refused(field: str) -> None:
    """Compared by identity it would silently count as none of the members."""
    word = str(getattr(Detector, field).value)
    made = type("Worded", (Detector,), {"name": "worded", field: word})()
    with pytest.raises(ValueError, match=f"Worded.{field} is '{word}', must be a "):
        Registry().add(made)


def test_package_imports_only_relatively() -> None:
    """It must work under another name when a neighbour owns `annotator`."""
    for path in Path(declared.__file__).parent.glob("*.py"):
        assert "import annotator" not in path.read_text(encoding="utf-8")
        assert "from annotator" not in path.read_text(encoding="utf-8")
