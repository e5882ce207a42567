"""Units of different control families in one generation, on the tiny network of each."""

import itertools
import json

import pytest
import support
import torch
from sessions import LATENT, FakeHost, info, prepared

from lib_controlnet import families
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.enums import ControlNetUnionControlType
from lib_controlnet.host.a1111.rows import build_layout

LAYOUT = build_layout([1], 1, 2)


class Company:
    """A base and a unit of every family for it; runs the U-Net once with some of them."""

    def __init__(self, kind):
        self.base = support.tiny_base(kind)
        fitting = (one for one in families.discover() if self.base.shape.kind in one.bases)
        self.networks = {family.name: family.tiny(self.base) for family in fitting}
        size = (LATENT.height, LATENT.width)
        self.arguments = support.inputs(kind, rows=2, size=size)
        self.plain = self.run()
        self.alone = {name: self.run(name) for name in self.networks}

    def unit(self, name, **fields):
        shown = {"union_control_type": ControlNetUnionControlType.DEPTH, "weight": 0.8}
        return prepared(self.networks[name], **(shown | fields))

    def run(self, *units):
        made = [self.unit(unit) if isinstance(unit, str) else unit for unit in units]
        session = ControlSession(FakeHost(), made)
        session.begin_pass(info(self.base))
        with torch.no_grad(), session.sampling(self.base.module):
            session.begin_evaluation(LAYOUT, 0.0)
            return self.base.module(**self.arguments)


@pytest.fixture(scope="module", params=("SD1", "SDXL"))
def company(request):
    return Company(request.param)


def test_of_two_families_each_acts_beside_the_other(company):
    """Their order: among all families, below, each two stand in both orders."""
    for one, two in itertools.combinations(company.networks, 2):
        both = company.run(one, two)
        for name in (one, two):
            assert not torch.equal(both, company.alone[name]), (one, two)


def test_a_unit_among_units_of_strength_0_is_alone(company):
    for name in company.networks:
        silent = [company.unit(other, weight=0.0) for other in company.networks if other != name]
        assert torch.equal(company.run(*silent, name), company.alone[name]), name


def test_all_families_act_in_one_call_and_leave_nothing(company):
    names = list(company.networks)
    together = company.run(*names)
    assert torch.equal(company.run(*reversed(names)), together)
    for missing in names:
        rest = [name for name in names if name != missing]
        assert not torch.equal(company.run(*rest), together), missing
    assert torch.equal(company.run(), company.plain)


def test_each_family_tells_what_it_ran_and_how_long(company):
    names = list(company.networks)
    units = [company.unit(name, index=number) for number, name in enumerate(names)]
    session = ControlSession(FakeHost(), units)
    session.begin_pass(info(company.base))
    with torch.no_grad(), session.sampling(company.base.module):
        for step in range(2):
            session.begin_evaluation(LAYOUT, step / 2)
            company.base.module(**company.arguments)
    session.end_pass(2)
    told = json.loads(json.dumps(session.report.describe()))["units"]
    assert [unit["family"] for unit in told] == [company.networks[one].family for one in names]
    for unit, prepared_unit in zip(told, units, strict=True):
        (made,) = unit["passes"]
        assert (made["pass"], made["steps"], made["of"]) == ("first", 2, 2), unit
        assert session.report.find(prepared_unit).passes["first"].seconds > 0, unit
        assert "skipped" not in unit
