"""The training data: same seed same scene, captions that tell the truth, exact hints."""

from __future__ import annotations

import numpy as np
import pytest
from training import captions
from training.hints import HINTS, source_of
from training.scenes import INK, make_scene
from training.shapes import fill, outline
from training.vocabulary import SHAPES, TEXTURES, WORDS

SEEDS = range(40)


@pytest.fixture(scope="module")
def scenes():
    return [make_scene(seed) for seed in SEEDS]


def test_scene_of_the_same_seed_is_the_same():
    first, again, other = make_scene(5), make_scene(5), make_scene(6)
    assert np.array_equal(first.picture, again.picture)
    assert first.caption == again.caption
    assert not np.array_equal(first.picture, other.picture)


def test_scene_arrays_have_the_stated_types(scenes):
    for scene in scenes:
        assert scene.picture.shape == scene.flat.shape == (128, 128, 3)
        assert scene.picture.dtype == scene.flat.dtype == np.uint8
        assert scene.labels.shape == scene.depth.shape == scene.lines.shape == (128, 128)
        assert 0.0 <= scene.depth.min() <= scene.depth.max() <= 1.0


def test_caption_names_every_thing_and_the_background(scenes):
    for scene in scenes:
        for thing in scene.things:
            assert f"{thing.colour}" in scene.caption
            assert thing.shape in scene.caption
            assert thing.texture == "solid" or thing.texture in scene.caption
        assert all(colour in scene.caption for colour in scene.background[1])


def test_both_kinds_and_every_shape_appear():
    scenes = [make_scene(seed) for seed in range(120)]
    assert {bool(s.things) for s in scenes} == {True, False}
    things = [t for s in scenes for t in s.things]
    assert {t.shape for t in things} == set(SHAPES)
    assert {t.texture for t in things} == set(TEXTURES)


def test_depth_of_things_grows_towards_the_viewer(scenes):
    for scene in scenes:
        visible = [i for i in range(1, len(scene.things) + 1) if (scene.labels == i).any()]
        means = [float(scene.depth[scene.labels == i].mean()) for i in visible]
        assert means == sorted(means)


def test_picture_is_inked_where_regions_meet(scenes):
    scene = next(s for s in scenes if len(s.things) == 1)
    source = source_of(scene)
    on_border = scene.picture[source.borders > 0].astype(int)
    assert np.abs(on_border - INK).sum(-1).mean() < 120


@pytest.mark.parametrize("kind", sorted(HINTS))
def test_hint_has_three_channels_in_range(kind, scenes):
    for seed, scene in enumerate(scenes[:8]):
        hint = HINTS[kind](source_of(scene), np.random.default_rng(seed))
        assert hint.shape == (128, 128, 3)
        assert hint.dtype == np.float32
        assert hint.max() <= 1.0
        masked = hint < 0
        assert not masked.any() or (kind == "inpaint" and (hint[masked] == -1.0).all())


def test_inpaint_hint_masks_all_three_channels(scenes):
    hint = HINTS["inpaint"](source_of(scenes[0]), np.random.default_rng(0))
    masked = hint < 0
    assert masked.any()
    assert np.array_equal(masked.any(-1), masked.all(-1))


@pytest.mark.parametrize("shape", SHAPES)
def test_outline_fills_about_its_radius(shape):
    mask = fill(128, outline(shape, np.array([64.0, 64.0]), 40, 0.2))
    y, x = np.nonzero(mask)
    assert 60 < np.ptp(x) < 100
    assert 60 < np.ptp(y) < 100


def test_unknown_shape_is_refused():
    with pytest.raises(ValueError, match="hexagon"):
        outline("hexagon", np.zeros(2), 1.0, 0.0)


def test_captions_use_the_vocabulary_but_for_junk(scenes):
    known = set(WORDS) | set(captions.JUNK)
    for scene in scenes:
        words = scene.caption.replace(",", " ").split()
        assert set(words) <= known, scene.caption
