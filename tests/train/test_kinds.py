"""Kinds that can be trained beside ControlNets: new ones, what the engine makes of them, runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sessions import FakeHost, info, picture, prepared
from support import describe_unet, inputs, tiny_unet
from toy_base import write_kind

from lib_controlnet.engine.session import ControlSession
from lib_controlnet.engine.unet import BaseUNet
from lib_controlnet.enums import ControlNetUnionControlType
from lib_controlnet.families import load_network
from lib_controlnet.files.checkpoint import open_checkpoint
from lib_controlnet.host.a1111.rows import build_layout
from lib_controlnet.nets.cldm import timestep_embedding
from lib_controlnet.train.__main__ import main
from lib_controlnet.train.base import open_base
from lib_controlnet.train.config import Settings
from lib_controlnet.train.dataset import read_items
from lib_controlnet.train.errors import TrainError
from lib_controlnet.train.kinds import kind_of_file
from lib_controlnet.train.model import predict, time_ids
from lib_controlnet.train.run import Training, run
from lib_controlnet.train.steps import type_numbers

Make = Callable[..., Settings]
CASES = [
    *(("union", "SD1"), ("union", "SDXL"), ("t2i", "SD1"), ("t2i", "SDXL")),
    *(("lllite --everywhere", "SD1"), ("lllite", "SDXL"), ("t2i_light", "SD1")),
]
CANNY = 3


def shaken(path: Path, seed: int = 5) -> Path:
    """The file with random numbers in place of its own."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: tensor + 0.05 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in load_file(path).items()
    }
    path.unlink()
    save_file(tensors, path)
    return path


@pytest.mark.parametrize(("kind", "base_kind"), CASES)
@torch.no_grad()
def test_a_new_control_is_silent_and_steers_as_the_engine_does(
    kind: str, base_kind: str, tmp_path: Path
) -> None:
    """Trained through diffusers, used through the engine: float32 in another order of sums."""
    base, control = write_kind(tmp_path, base_kind), tmp_path / "new.safetensors"
    assert main(["init", str(base), str(control), "--kind", *kind.split()]) == 0
    opened, call = open_base(base), inputs(base_kind)
    unet, pooled = opened.unet(), None
    hint = torch.from_numpy(picture(3)).permute(2, 0, 1)[None].float() / 255
    if base_kind == "SDXL":
        pooled = torch.randn(2, opened.unet_arguments["projection_class_embeddings_input_dim"] // 2)
        width = opened.unet_arguments["addition_time_embed_dim"]
        waves = timestep_embedding(time_ids(call["x"]).flatten(), width).reshape(2, -1)
        call["y"] = torch.cat([pooled, waves], dim=1)
    rest = (call["x"], call["timesteps"], call["context"], pooled)
    types = torch.tensor([CANNY, CANNY])

    def through_diffusers() -> torch.Tensor:
        network = kind_of_file(control).open(opened, open_checkpoint(control))
        return predict(unet, network, *rest, hint.expand(2, -1, -1, -1), types)

    plain = predict(unet, None, *rest, None)
    assert torch.equal(through_diffusers(), plain)
    shaken(control)
    module = tiny_unet(base_kind)
    host_base = BaseUNet(module, describe_unet(module), base_kind, base_kind)
    loaded = load_network(control, host_base, torch.float32, "cpu")
    assert getattr(loaded.base, "kind", loaded.base) == host_base.shape.kind
    unit = prepared(loaded, 3, union_control_type=ControlNetUnionControlType.HARD_EDGE)
    session = ControlSession(FakeHost(), [unit])
    session.begin_pass(info(host_base))
    with session.sampling(module):
        session.begin_evaluation(build_layout([1], 1, 2), 0.5)
        ours = module(**call)
    theirs = through_diffusers()
    assert float((theirs - plain).abs().max()) > 1e-2
    assert torch.allclose(ours, theirs, atol=2e-4, rtol=1e-3)
    assert torch.equal(predict(unet, None, *rest, None), plain), "nothing stays on the U-Net"


@pytest.mark.parametrize("kind", ["union", "t2i", "t2i_light", "lllite"])
def test_a_run_of_each_kind_learns_and_continues_exactly(
    kind: str, toy: Path, settings: Make, tmp_path: Path
) -> None:
    control = tmp_path / "new.safetensors"
    assert main(["init", str(toy / "toy.safetensors"), str(control), "--kind", kind]) == 0
    common = {"control": str(control), "average": 0.5, "sample_every": 0, "save_every": 1}
    run(settings("whole", steps=3, **common))
    for steps in (1, 3):
        run(settings("parts", steps=steps, **common))
    one, two, new = (
        load_file(path)
        for path in (*(tmp_path / f"{n}/control.safetensors" for n in ("whole", "parts")), control)
    )
    assert one.keys() == two.keys() == new.keys(), "names of the published files"
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert sum(not torch.equal(one[name], new[name]) for name in one) > len(one) / 3
    out = tmp_path / "out.safetensors"
    assert main(["export", str(tmp_path / "whole"), str(out)]) == 0
    assert kind_of_file(out).key == kind
    told = open_checkpoint(out).metadata
    assert (told.get("control_type"), told.get("preprocessor")) == (
        (None, None) if kind == "union" else ("Canny", "canny")
    ), "a union is listed under all its types"
    half = tmp_path / "half.safetensors"
    assert main(["export", str(tmp_path / "whole"), str(half), "--dtype", "fp8"]) == 0
    eight = load_file(half)
    assert {tensor.dtype for tensor in eight.values()} == {torch.float8_e4m3fn, torch.float16}
    for name, tensor in eight.items():
        assert torch.allclose(tensor.float(), one[name], rtol=0.07, atol=2e-3), name
    assert main(["export", str(tmp_path / "whole"), str(tmp_path / "f"), "--layout", "diffusers"])


def test_a_union_begins_with_a_control_net(toy: Path, tmp_path: Path) -> None:
    base, start = str(toy / "toy.safetensors"), shaken_copy(toy / "new.safetensors", tmp_path)
    union = tmp_path / "union.safetensors"
    begin = ["--kind", "union", "--start", str(start), "--types", "8"]
    assert main(["init", base, str(union), *begin]) == 0
    given, made = load_file(start), load_file(union)
    assert all(torch.equal(made[name], given[name]) for name in given)
    assert len(made["task_embedding"]) == 8
    opened = open_base(base)
    unet, hint = opened.unet(), torch.rand(2, 3, 32, 32)
    rest = (torch.randn(2, 4, 4, 4), torch.tensor([10, 900]), torch.randn(2, 77, 32), None, hint)
    with torch.no_grad():
        answers = [
            predict(unet, kind_of_file(file).open(opened, open_checkpoint(file)), *rest, types)
            for file, types in ((start, None), (union, torch.tensor([0, 3])))
        ]
    assert torch.allclose(*answers, atol=1e-5)


def shaken_copy(path: Path, folder: Path) -> Path:
    copy = folder / path.name
    save_file(load_file(path), copy)
    return shaken(copy)


def test_a_rows_type_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    base, control = write_kind(tmp_path, "SD1"), tmp_path / "new.safetensors"
    assert main(["init", str(base), str(control), "--kind", "union"]) == 0
    opened, call = open_base(base), inputs("SD1")
    network = kind_of_file(control).open(opened, open_checkpoint(shaken(control)))
    unet, hint = opened.unet(), torch.rand(2, 3, 64, 128)
    rest = (call["x"], call["timesteps"], call["context"])

    @torch.no_grad()
    def answer(rows: slice, *types: int) -> torch.Tensor:
        mine = [part[rows] for part in rest]
        return predict(unet, network, *mine, None, hint[rows], torch.tensor(types))

    both = answer(slice(0, 2), 1, 3)
    for row, number in ((0, 1), (1, 3)):
        alone = answer(slice(row, row + 1), number)
        assert torch.allclose(alone[0], both[row], atol=1e-5)
    other = answer(slice(0, 2), 3, 3)
    assert float((other[0] - both[0]).abs().max()) > 1e-3


def test_types_come_from_lines_else_from_the_data_set(tmp_path: Path) -> None:
    lines = [
        {"source": "a.png", "target": "b.png", "prompt": "a", **more}
        for more in ({}, {"control_type": "depth"}, {"control_type": "Shuffle"})
    ]
    (tmp_path / "prompt.json").write_text("\n".join(map(json.dumps, lines)))
    items, faults = read_items(tmp_path)
    assert (faults, type_numbers(tmp_path, items)) == ([], [-1, 1, -1])
    (tmp_path / "dataset.json").write_text(json.dumps({"control_type": "Canny"}))
    assert type_numbers(tmp_path, items) == [CANNY, 1, -1]
    (tmp_path / "prompt.json").write_text(json.dumps({**lines[0], "control_type": 3}))
    assert read_items(tmp_path) == ([], ["prompt.json line 1: has a control_type that is no text"])


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("t2i", ["--gaussian"], "--gaussian means nothing for a T2I-Adapter"),
        ("t2i", ["--everywhere"], "--everywhere means nothing for a T2I-Adapter"),
        ("lllite", ["--types", "8"], "--types means nothing for a ControlNet-LLLite"),
        ("controlnet", ["--start", "x"], "--start means nothing for a ControlNet"),
        ("union", ["--start", "{base}"], "is no ControlNet for this base"),
    ],
)
def test_options_of_other_kinds_are_refused(
    kind: str, options: list, said: str, toy: Path, tmp_path: Path, caplog
) -> None:
    base, out = str(toy / "toy.safetensors"), tmp_path / "new.safetensors"
    words = [word.format(base=base) for word in options]
    assert main(["init", base, str(out), "--kind", kind, *words]) == 1
    assert said in caplog.text
    assert not out.exists()


def test_runs_that_cannot_be_are_refused_before_they_begin(
    toy: Path, settings: Make, tmp_path: Path
) -> None:
    base, other = str(toy / "toy.safetensors"), write_kind(tmp_path, "SDXL")
    files = {name: tmp_path / f"{name}.safetensors" for name in ("union", "t2i", "lllite")}
    for name, path in files.items():
        assert main(["init", base, str(path), "--kind", name]) == 0
    lora = tmp_path / "lora.safetensors"
    save_file({"lora_controlnet": torch.zeros(0), "input_blocks.0.0.up": torch.zeros(4, 2)}, lora)
    data = tmp_path / "data"
    assert main(["fill50k", str(data), "--count", "12", "--size", "32"]) == 0
    about = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps({**about, "control_type": "Shuffle"}))
    cases = [
        ({"control": str(lora)}, "seems to be a Control-LoRA, which cannot be trained here"),
        ({"control": str(files["t2i"]), "only_middle": True}, "--only-middle means nothing"),
        ({"control": str(files["union"]), "data": str(data)}, "is Shuffle, this ControlNet Union"),
        *(({"control": str(path), "base": str(other)}, "for SDXL") for path in files.values()),
    ]
    for changes, said in cases:
        with pytest.raises(TrainError, match=said):
            Training(settings(**changes))
        assert not (tmp_path / "run").exists()
