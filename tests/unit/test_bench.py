"""What `dev.py bench` counts, and that every control family has its rows. Nothing is timed."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import ExitStack
from functools import lru_cache, partial

import bench_families
import bench_lossless
import pytest
import support
import torch
from bench_families import FURTHER, KINDS, LIMITS, Case, Cost, Limit, Rig, find_cases, measure
from bench_published import FILES, Living
from measures import MemoryTrace, flops

from lib_controlnet.engine.kept import Kept
from lib_controlnet.families import discover, identify
from lib_controlnet.families.attention import PromptNetwork
from lib_controlnet.families.controlnet import ControlNetFamily

MB = 2**20


def zeros(megabytes: int) -> torch.Tensor:
    return torch.zeros(megabytes * MB // 4)


def test_memory_is_what_is_held_at_a_time_and_what_stays() -> None:
    trace, kept = MemoryTrace(), []
    assert trace.peak(lambda: kept.append(zeros(1))) == MB
    assert trace.held == MB
    assert trace.peak(lambda: zeros(2) + zeros(2)[0]) == MB + 6 * MB  # two, and their sum
    assert trace.held == MB
    trace.peak(kept.clear)
    assert trace.held == 0


def test_memory_within_an_operation_counts() -> None:
    q = torch.randn(1, 2, 512, 16)
    attention = torch.nn.functional.scaled_dot_product_attention
    assert MemoryTrace().peak(lambda: attention(q, q, q)) > q.nbytes


def test_operations_of_the_cpus_attention_count() -> None:
    q, k = torch.randn(1, 2, 8, 16), torch.randn(1, 2, 5, 16)
    attention = torch.nn.functional.scaled_dot_product_attention
    assert flops(lambda: attention(q, k, k)) == 2 * (2 * 2 * 8 * 5 * 16)


@lru_cache
def rows_of(kind: str) -> tuple[Rig, list[Case]]:
    rig = Rig(kind, 32, 8)
    return rig, list(find_cases(rig))


@pytest.fixture(params=KINDS)
def rig(request: pytest.FixtureRequest) -> Rig:
    return rows_of(request.param)[0]


@pytest.fixture
def cases(rig: Rig) -> list[Case]:
    return rows_of(rig.kind)[1]


def test_every_family_and_preprocessor_has_a_row(rig: Rig, cases: list[Case]) -> None:
    wanted = {
        (family.name, name or family.name)
        for family in discover()
        if rig.base.shape.kind in family.bases
        for name in family.preprocessors or ("",)
    }
    assert {(case.family, case.name) for case in cases} >= wanted
    assert len({case.name for case in cases}) == len(cases)


class MadeUp(ControlNetFamily):
    """A family that no table knows."""

    name = "made up"


def test_a_new_family_has_its_row_and_a_limit_without_a_word(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_families, "discover", lambda: (MadeUp(),))
    assert [(case.name, case.limit) for case in find_cases(rig)] == [("made up", Limit())]


def test_the_tables_name_nothing_that_is_not_there() -> None:
    names = {family.name for family in discover()}
    rows = {case.name for kind in KINDS for case in rows_of(kind)[1]}
    assert set(FURTHER) <= names
    assert set(LIMITS) <= names | rows | {bench_families.STYLE_ALIGN}


@pytest.mark.parametrize("name", ["T2I-Adapter", "ControlNet"])
def test_a_row_says_what_is_measured(name: str) -> None:
    case = next(case for case in rows_of("SDXL")[1] if case.name == name)
    with torch.inference_mode():
        cost = measure(case, 1)
    assert (cost.work == 0) is (name == "T2I-Adapter")
    assert cost.stays > 0
    assert cost.weights == case.session().prepared[0].model.network(case.rig.base).nbytes
    assert cost.memory > 0


def test_an_lllite_does_what_its_layers_need_and_nothing_else() -> None:
    rig, cases = rows_of("SDXL")
    case = next(case for case in cases if case.family == "ControlNet-LLLite")
    session = case.session()
    session.begin_pass(rig.info)
    modules = session.active[0].network.module
    with torch.inference_mode(), session.sampling(rig.base.module):
        rig.step(session)
        work = flops(lambda: rig.step(session)) - rig.work
    needed = 0
    for module in modules.values():
        layers = (module.down[0], module.mid[0], module.up[0])
        tokens = 2 * (64 // module.cell) ** 2
        needed += 2 * tokens * sum(layer.weight.numel() for layer in layers)
    assert work == needed


def test_a_row_fails_where_any_of_its_targets_does(rig: Rig, cases: list[Case]) -> None:
    case = next(case for case in cases if case.family == "ControlNet")
    limit, fits = case.limit, Cost(0.0, 0.0, 0, 0, 0)
    assert fits.row(case).endswith("| yes |")
    for cost in (
        Cost(2 * limit.time, 0.0, 0, 0, 0),
        Cost(0.0, 2 * limit.work, 0, 0, 0),
        Cost(0.0, 0.0, int(2 * limit.memory * rig.peak), 0, 0),
    ):
        assert cost.row(case).endswith("| NO |")


def layers_called(case: Case, steps: int) -> list[list[str]]:
    """Names of the layers of its networks that each step of a pass calls."""
    session, seen = case.session(), []
    session.begin_pass(case.rig.info)
    networks = [prepared.model.network(case.rig.base) for prepared in session.prepared]
    with ExitStack() as stack, torch.inference_mode(), session.sampling(case.rig.base.module):
        for number, module in enumerate({id(one): one.module for one in networks}.values()):
            for name, layer in module.named_modules():
                note = partial(lambda name, *_args: seen[-1].append(name), f"{number} {name}")
                stack.callback(layer.register_forward_hook(note).remove)
        for _ in range(steps):
            seen.append([])
            case.rig.step(session)
    return seen


NO_LAYERS = {"Reference", "Revision", "Fooocus inpaint"}
"""What they make of a picture passes through no layer of their own."""


def test_what_is_constant_in_a_pass_is_computed_in_its_first_step(cases: list[Case]) -> None:
    """Hints encoded, tokens projected, keys and values made."""
    for case in (one for one in cases if len(one.units) == 1):
        first, second, third = (Counter(names) for names in layers_called(case, 3))
        assert second == third, case.name
        assert bool(first - second) is (case.family not in NO_LAYERS), case.name
        assert not second - first, case.name
        if isinstance(case.units[0].model.network(case.rig.base), PromptNetwork):
            once = [name for name in first if re.fullmatch(r"0 (image_proj|ip_adapter.\d+)", name)]
            assert len(once) > 10, case.name
            assert not any(second[name] for name in once), case.name
            assert {first[name] for name in once if "proj" not in name} == {1}, case.name


def test_nothing_is_done_twice() -> None:
    """The rows of `--part lossless`, but for those of all families, which the laws hold."""
    with torch.inference_mode():
        rows = list(bench_lossless.lossless_lines(families=False))
    assert len(rows) > 10
    assert [str(row) for row in rows if not row.holds] == []


def test_a_row_says_what_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(case for case in rows_of("SD1")[1] if case.name == "ControlNet")
    with torch.inference_mode():
        first, again = bench_lossless.count_again(case)
        monkeypatch.setattr(Kept, "find", lambda _kept, _network, _key, make: make())
        assert bench_lossless.count_again(case) == (first, 2 * first)
    assert (first > 10, again) == (True, 0)


def test_published_files_are_of_all_families_with_files() -> None:
    files = (support.memory_checkpoint(support.golden(one.file), "one.pth") for one in FILES)
    # Counted without weights: a Control-LoRA's are a sum with the base's, Fooocus' are two files.
    missing = {"Control-LoRA", "Fooocus inpaint"}
    wanted = {family.name for family in discover() if family.kinds} - missing
    assert {identify(file).name for file in files} == wanted


def test_what_stays_on_the_meta_device_is_told_apart_from_weights_and_views() -> None:
    weight = torch.empty(MB, device="meta", dtype=torch.uint8)
    with Living() as living:
        kept = weight[:5] + 1
        view = weight.view(-1, 2)
        assert living.nbytes == 5
        weight.clone()
    assert living.nbytes == 5
    assert (kept.numel(), view.numel()) == (5, MB)
