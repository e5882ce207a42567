"""Revision against its formula: what the U-Net reads in the place of words.

The conditions are made here by hand and given to the U-Net itself, so outputs agree to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from oracle import assert_close
from sessions import FakeHost, info, prepared
from support import inputs, tiny_base
from torch import Tensor

from annotator.embedding import IMAGE_EMBEDS, Embedding
from lib_controlnet import families
from lib_controlnet.detect import preprocess
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.engine.step import RowLayout
from lib_controlnet.engine.unet import BaseUNet
from lib_controlnet.errors import UnitError, WrongBaseModelError
from lib_controlnet.families.controlnet import ControlNetFamily
from lib_controlnet.families.reference import ReferenceFamily
from lib_controlnet.families.revision import (
    IGNORE_PROMPT,
    WITH_PROMPT,
    RevisionFamily,
    add_noise,
)
from lib_controlnet.host.a1111.rows import build_layout

PAIR = build_layout([1], 1, 2)
WIDTH = 96
"""Of the tiny U-Net's vector condition, which is narrower than the embedding."""


def picture(seed: int) -> Tensor:
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))


def revision(
    base: BaseUNet, *seeds: int, name: str = WITH_PROMPT, noise: float = 0.0, **fields: object
) -> object:
    """A unit with pictures, one for each frame."""
    unit = prepared(RevisionFamily().make(base, name), **fields)
    unit.embeddings = tuple((Embedding({IMAGE_EMBEDS: picture(s)[None]}),) for s in seeds)
    unit.values = (noise,)
    return unit


def run(
    base: BaseUNet,
    units: Sequence,
    call: Mapping[str, Tensor],
    layout: RowLayout = PAIR,
    **changes: object,
) -> Tensor:
    session = ControlSession(FakeHost(), units)
    images = len({row.image for row in layout.rows})
    session.begin_pass(info(base, **{"images": images, "seeds": (5, 6)[:images], **changes}))
    with torch.no_grad(), session.sampling(base.module):
        session.begin_evaluation(layout, 0.5)
        out = base.module(**call)
    session.end_pass(1)
    assert all(session.outcome_of(unit).acted for unit in units)
    return out


def noised(vector: Tensor, level: int, seed: int) -> Tensor:
    """By the definition, with the signal's share as a product of all steps before."""
    signal = 1.0
    for step in range(level + 1):
        signal *= 1 - (1e-4 + (2e-2 - 1e-4) * step / 999)
    noise = torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed * 1000 + level))
    return signal**0.5 * vector + (1 - signal) ** 0.5 * noise


CASES = {
    "one": ([((1,), {})], picture(1), False),
    "weight": ([((1,), {"weight": 0.5})], 0.5 * picture(1), False),
    "two": (
        [((1,), {"weight": 0.5}), ((2,), {"weight": 1.5})],
        0.5 * picture(1) + 1.5 * picture(2),
        False,
    ),
    "without prompt": ([((1,), {"name": IGNORE_PROMPT})], picture(1), True),
    "one of two without": (
        [((1,), {"name": IGNORE_PROMPT}), ((2,), {})],
        picture(1) + picture(2),
        True,
    ),
    "noise": ([((1,), {"noise": 0.3, "weight": 2.0})], 2.0 * noised(picture(1), 300, 5), False),
    "noise alone": ([((1,), {"noise": 1.0})], noised(picture(1), 999, 5), False),
}
"""Units, what the prompt's rows read in the place of the pooled text, whether text is zero."""


@pytest.mark.parametrize("case", CASES)
def test_the_unet_reads_the_pictures_in_the_place_of_the_pooled_text(case: str) -> None:
    asked, vector, is_wordless = CASES[case]
    base, call = tiny_base("SDXL"), inputs("SDXL")
    units = [revision(base, *seeds, **fields) for seeds, fields in asked]
    changed = {**call, "y": torch.stack([vector, torch.zeros(WIDTH)])}
    if is_wordless:
        changed["context"] = torch.zeros_like(call["context"])
    with torch.no_grad():
        expected, plain = base.module(**changed), base.module(**call)
    assert_close(run(base, units, call), expected)
    assert float((expected - plain).abs().max()) > 0.02 * float(plain.abs().max())


def test_prompts_without_a_word_leave_nothing_of_the_text() -> None:
    base, call = tiny_base("SDXL"), inputs("SDXL")
    expected = run(base, [revision(base, 1, name=IGNORE_PROMPT)], call)
    assert torch.equal(run(base, [revision(base, 1)], call, has_words=False), expected)
    assert not torch.equal(run(base, [revision(base, 1)], call), expected)


def test_frames_and_seeds_are_those_of_the_picture() -> None:
    base, call = tiny_base("SDXL"), inputs("SDXL", rows=4)
    unit = revision(base, 1, 2, noise=0.3)
    vectors = [noised(picture(1), 300, 5), noised(picture(2), 300, 6), *[torch.zeros(WIDTH)] * 2]
    with torch.no_grad():
        expected = base.module(**{**call, "y": torch.stack(vectors)})
    assert_close(run(base, [unit], call, build_layout([1, 1], 2, 4)), expected)


@pytest.mark.parametrize("family", [ControlNetFamily, ReferenceFamily])
def test_other_units_read_the_same_conditions(family: type) -> None:
    base, call = tiny_base("SDXL"), inputs("SDXL")
    other = prepared(family().tiny(base), 5)
    changed = {
        **call,
        "y": torch.stack([picture(1), torch.zeros(WIDTH)]),
        "context": torch.zeros_like(call["context"]),
    }
    expected = run(base, [other], changed)
    assert_close(run(base, [other, revision(base, 1, name=IGNORE_PROMPT)], call), expected)


def test_what_cannot_be_is_refused_with_a_sentence() -> None:
    for name in (WITH_PROMPT, IGNORE_PROMPT):
        model = families.find_fileless(name)
        assert model is not None
        with pytest.raises(WrongBaseModelError, match=f"{name} needs an SDXL checkpoint.*is SD1"):
            model.network(tiny_base("SD1"))
        assert not preprocess.get(name).needs_model
    base = tiny_base("SDXL")
    unit = revision(base, 1)
    unit.embeddings = ((Embedding({IMAGE_EMBEDS: torch.ones(1, 7)}),),)
    with pytest.raises(UnitError, match=r"of 96 numbers.* has 7; choose the preprocessor revis"):
        run(base, [unit], inputs("SDXL"))


def test_no_noise_is_none_and_no_random_number_of_the_user_is_taken() -> None:
    state = torch.random.get_rng_state()
    assert add_noise(picture(1), 0, 5) is not None
    assert torch.equal(add_noise(picture(1), 0, 5), picture(1))
    assert torch.equal(add_noise(picture(1), 10, 5), add_noise(picture(1), 10, 5))
    assert torch.equal(torch.random.get_rng_state(), state)
