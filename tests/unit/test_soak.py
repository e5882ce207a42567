"""The commands of docs/fuzz.md: damaged files, and what the soak counts as a failure."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fuzz import damage, damaged, files, soak

FILES = 120
CLEAN = {
    **{"hooks": [], "functions": [], "objects": {"session.ControlSession": 1}},
    **{"threads": ["MainThread"], "files": ["/dev/null"], "memory": {"RSS": 1000, "HWM": 1200}},
}


@pytest.mark.parametrize("kind", files.KINDS)
def test_sound_files_are_used(kind: str, tmp_path: Path) -> None:
    for name, data in files.KINDS[kind].files().items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    files.KINDS[kind].use(tmp_path)


def test_damaged_files_are_used_or_refused_in_a_sentence() -> None:
    tally = damaged.damaged(FILES, seed=5)
    assert not tally.failures
    refused = tally.files - sum(counter["used"] for counter in tally.outcomes.values())
    assert FILES // 3 < refused < tally.files, "some are damaged where it matters, some are not"


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "x.old.pth", "x.json", "x.yaml"])
def test_a_seed_gives_the_same_damage(name: str) -> None:
    kind = next(k for k in files.KINDS.values() if any(n.endswith(name[1:]) for n in k.files()))
    data = next(data for n, data in kind.files().items() if n.endswith(name[1:]))
    one, again, other = (damage.by_ending(name)(data, random.Random(seed)) for seed in (1, 1, 2))
    assert one == again
    assert data != one != other


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state["hooks"].append("input_blocks.0: f"), "hooks left"),
        (lambda state: state["functions"].append("Sampler.sample"), "functions left"),
        (lambda state: state["objects"].update({"session.ControlSession": 2}), "objects left"),
        (lambda state: state["threads"].append("worker"), "threads left"),
        (lambda state: state["files"].append("/tmp/x"), "files left"),
        (lambda state: state["memory"].update(RSS=1200), "memory grew"),
        (lambda state: state["memory"].update(HWM=soak.PEAK + 1200), "at its highest"),
        (lambda state: None, None),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_the_soak_counts_what_is_left(
    change: Callable[[dict[str, Any]], object], words: str | None
) -> None:
    types = {"control_types": {kind: {"model_list": ["None"]} for kind in soak.TYPES}}
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, json=types))
    with httpx.Client(base_url="http://x", transport=transport) as client:
        work = soak.Soak(client, limit=100)
    after = copy.deepcopy(CLEAN)
    change(after)
    work.compare(CLEAN, after)
    assert [words in failure for failure in work.failures] == ([] if words is None else [True])
