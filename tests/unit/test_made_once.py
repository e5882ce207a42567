"""What depends on a unit's picture alone is made once in a generation; counted, never timed."""

from dataclasses import replace

import numpy as np
import pytest
import support
import torch
from sessions import LATENT, FakeHost, info, picture, prepared

from lib_controlnet import families
from lib_controlnet.engine import prepared as prepared_module
from lib_controlnet.engine.kept import Kept
from lib_controlnet.engine.memory import Between
from lib_controlnet.engine.prepared import share_maps
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.enums import ControlMode
from lib_controlnet.host.a1111.rows import build_layout

PICTURES = 4
PAIR = build_layout([1], 1, 2)
HALF = np.zeros((64, 128), np.uint8)
HALF[:, :64] = 255


@pytest.fixture(scope="module")
def base():
    return support.tiny_base("SD1")


@pytest.fixture(scope="module")
def network(base):
    return find("ControlNet").tiny(base)


def find(name):
    return next(family for family in families.discover() if family.name == name)


class Count:
    """How often placing, hashing, encoding a picture and encoding a hint are done."""

    def __init__(self, monkeypatch, network=None):
        self.counts = dict.fromkeys(("place", "hash", "vae", "hint"), 0)
        self.host = FakeHost()
        self.watch(monkeypatch, prepared_module, "place_map", "place")
        self.watch(monkeypatch, prepared_module, "_digest", "hash")
        self.watch(monkeypatch, self.host, "vae_encode", "vae")
        if network is not None:
            self.watch(monkeypatch, network, "encode_hint", "hint")

    def watch(self, monkeypatch, owner, name, what):
        original = getattr(owner, name)

        def counted(*args):
            self.counts[what] += 1
            return original(*args)

        monkeypatch.setattr(owner, name, counted)


def sample(session, base, *passes, steps=2):
    """Sample passes: True for a hires pass."""
    size = (LATENT.height, LATENT.width)
    given = support.inputs("SD1", rows=2, size=size)
    outputs = []
    for is_hires in passes:
        session.begin_pass(info(base, has_hires=True, is_hires=is_hires))
        with torch.no_grad(), session.sampling(base.module):
            for step in range(steps):
                session.begin_evaluation(PAIR, step / steps)
                outputs.append(base.module(**given))
        session.end_pass(steps)
    return outputs


UNITS = {
    "one unit": [{}],
    "one picture in two units": [{}, {"weight": 0.5}],
    "on other rows": [{}, {"control_mode": ControlMode.CONTROL}],
    "in two regions": [{"region": HALF}, {"region": 255 - HALF}],
    "in other windows": [{"guidance_end": 0.4}, {"guidance_start": 0.4}],
}


@pytest.mark.parametrize("case", UNITS)
def test_a_picture_is_placed_hashed_and_encoded_once(base, network, monkeypatch, case):
    count = Count(monkeypatch, network)
    session = ControlSession(count.host, [])
    session.take([prepared(network, **fields) for fields in UNITS[case]])
    sample(session, base, *[False] * PICTURES)
    assert count.counts == {"place": 1, "hash": 1, "vae": 0, "hint": 1}


def test_pictures_that_differ_are_told_apart(base, network, monkeypatch):
    count = Count(monkeypatch, network)
    session = ControlSession(count.host, [])
    session.take([prepared(network, seed=seed) for seed in (3, 4, 3)])
    sample(session, base, *[False] * PICTURES)
    assert count.counts == {"place": 2, "hash": 2, "vae": 0, "hint": 2}


def test_an_encoded_latent_serves_all_passes_and_units(base, monkeypatch):
    count = Count(monkeypatch)
    networks = [
        find("Reference").make(base, name) for name in ("reference_only", "reference_adain")
    ]
    session = ControlSession(count.host, [])
    session.take([prepared(network) for network in networks])
    sample(session, base, *[False, True] * 2)
    assert count.counts["vae"] == 1


def test_what_an_inpainting_checkpoint_is_told_is_encoded_once(base, network, monkeypatch):
    count = Count(monkeypatch)
    unit = prepared(network)
    unit.masks, unit.detected = True, np.dstack([picture(), HALF])
    session = ControlSession(count.host, [unit])
    monkeypatch.setattr(count.host, "option", lambda _key: 1.0)
    reads = replace(base, shape=replace(base.shape, in_channels=9))
    for _ in range(PICTURES):
        session.begin_pass(info(reads))
        assert session.effects("condition")
    assert count.counts["vae"] == 1


@pytest.mark.parametrize(
    ("between", "hints"), [(Between.NEVER, 1), (Between.PASS, 3), (Between.EVALUATION, 3)]
)
def test_where_memory_is_to_be_spared_nothing_stays_after_a_pass(
    base, network, monkeypatch, between, hints
):
    count = Count(monkeypatch, network)
    count.host.between = between
    session = ControlSession(count.host, [prepared(network)])
    for _ in range(3):
        sample(session, base, False)
        assert bool(session.kept.nbytes) is (between is Between.NEVER)
    assert count.counts["hint"] == hints


def test_a_turn_of_a_batch_takes_over_what_it_shows_again(base, network, monkeypatch):
    count = Count(monkeypatch, network)
    session = ControlSession(count.host, [])
    for turn in range(4):
        session = session.follow()
        session.take([prepared(network), prepared(network, seed=10 + turn)])
        sample(session, base, False)
    assert count.counts == {"place": 5, "hash": 5, "vae": 0, "hint": 5}
    assert len(session.kept._made[network]) == 5  # its text, and the hints of the last three turns
    session = session.follow()
    session.take([prepared(network)])
    sample(session, base, False, False, False)
    assert len(session.kept._made[network]) == 2  # what nobody shows any more is gone
    session.release()
    assert not session.kept.nbytes


def test_lack_of_memory_takes_it_and_the_next_pass_makes_it_again(base, network, monkeypatch):
    count = Count(monkeypatch, network)
    session = ControlSession(count.host, [prepared(network)])
    first = sample(session, base, False)
    assert count.host.residency.park()
    assert not session.kept.nbytes
    again = sample(session, base, False)
    assert count.counts["hint"] == 2
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_a_hint_that_another_extension_gave_is_nobody_elses(base, network, monkeypatch):
    count = Count(monkeypatch, network)
    session = ControlSession(count.host, [prepared(network)])
    plain = sample(session, base, False)
    session.begin_pass(info(base))
    control = session.active[0]
    control.replace_hint(torch.full_like(control.hint, 0.5))
    with torch.no_grad(), session.sampling(base.module):
        session.begin_evaluation(PAIR, 0.0)
        base.module(**support.inputs("SD1", rows=2, size=(LATENT.height, LATENT.width)))
    assert count.counts["hint"] == 2
    assert torch.equal(sample(session, base, False)[0], plain[0])
    assert count.counts["hint"] == 2


@pytest.mark.parametrize("change", ["a mask that is black", "frames", "resize mode"])
def test_maps_are_shared_only_where_all_of_them_are_equal(network, change):
    units = [prepared(network), prepared(network)]
    if change == "resize mode":
        units[1].resize_mode = next(
            m for m in type(units[0].resize_mode) if m != units[0].resize_mode
        )
    elif change == "frames":
        units[1].frames = (picture(),)
    else:
        units[0].detected = np.dstack([picture(), np.zeros_like(HALF)])
        units[1].detected = np.dstack([picture(), HALF])
    share_maps(units)
    assert units[0]._sizes is not units[1]._sizes
    share_maps(units, [prepared(network)])
    assert units[0]._sizes is not units[1]._sizes


def test_nothing_of_a_network_that_is_gone_is_held(base):
    kept, network = Kept(), find("ControlNet").tiny(base)
    value = kept.find(network, "key", lambda: (torch.zeros(2), {"one": torch.zeros(3)}))
    assert kept.find(network, "key", list) is value
    assert kept.nbytes == 20
    del network
    assert not kept.nbytes


def test_another_checkpoint_encodes_pictures_anew(base, monkeypatch):
    """Hires at the same size may bring another VAE; each pass has what its own one makes."""
    count, network = Count(monkeypatch), find("Reference").tiny(base)
    other = replace(base, origin="another checkpoint")
    session = ControlSession(count.host, [prepared(network)])
    keys = []
    for number, present in enumerate((base, other, other, base), 1):
        session.begin_pass(info(present, has_hires=True, is_hires=present is other))
        keys.append(session.active[0].terms.guide_key)
        session.end_pass(0)
        assert count.counts["vae"] == (1, 2, 2, 3)[number - 1]
    assert keys[0] == keys[3] != keys[1] == keys[2]
