"""The programs that made the demo's base model still run, and go on where they were stopped."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from minildm.checkpoint import load_checkpoint
from safetensors.torch import load_file
from training import assets, data, loop, train_base, train_vae


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Few scenes and small batches; what is written lies in a folder of the test's own."""
    for module in (data, loop):
        monkeypatch.setattr(module, "RUNS", tmp_path)
    monkeypatch.setattr(data, "COUNTS", {128: 4})
    monkeypatch.setattr(data, "CHUNK", 2)
    monkeypatch.setattr(data, "load_scenes", partial(data.load_scenes, workers=1))
    monkeypatch.setattr(train_base, "load_scenes", data.load_scenes)
    monkeypatch.setattr(train_base, "BATCHES", {128: 2})
    for module in (assets, train_base):
        monkeypatch.setattr(module, "CHECKPOINT", tmp_path / "demo.safetensors")
    (tmp_path / "demo.yaml").symlink_to(assets.ASSETS / "demo.yaml")
    (tmp_path / "demo-clip").symlink_to(assets.TEXT_FOLDER)
    monkeypatch.setattr(train_vae, "FOLDED", tmp_path / "vae_folded.pt")
    monkeypatch.setattr(train_vae, "SCENES", 2)
    monkeypatch.setattr(train_vae, "BATCH", 2)
    monkeypatch.setattr(train_vae, "fold_scale", partial(train_vae.fold_scale, count=2))
    return tmp_path


def test_phases_give_a_checkpoint_that_loads(folder: Path) -> None:
    vae = train_vae.train(loop.Plan(1, 1e-3, 1))
    train_base.train(vae, loop.Plan(1, 1e-3, 1, average=0.9))
    before = load_file(folder / "demo.safetensors")
    assets.replace_vae(train_vae.refine_decoder(vae, loop.Plan(1, 1e-3, 1)))
    after = load_file(folder / "demo.safetensors")
    changed = {key.split(".")[1] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"decoder", "post_quant_conv"}
    base = load_checkpoint(folder / "demo.safetensors")
    with torch.no_grad():
        ids = train_base.tokenize(base.tokenizer, list(train_base.PROMPTS))
        assert float(base.text(ids).mean()) == pytest.approx(train_base.MEAN, abs=0.01)


def test_training_that_was_stopped_gives_the_same(folder: Path) -> None:
    def trained(name: str, *stops: int) -> torch.Tensor:
        for steps in stops:
            torch.manual_seed(0)
            module = torch.nn.Linear(3, 2)
            plan = loop.Plan(3, 0.1, 1, hold=1.0, average=0.5)

            def loss_of(step: int, module: torch.nn.Module = module, last: int = steps):
                if step == last:
                    raise KeyboardInterrupt
                return module(torch.randn(4, 3)).square().mean()

            try:
                loop.fit(name, module, list(module.parameters()), loss_of, plan)
            except KeyboardInterrupt:
                continue
        return module.weight.detach()

    loop_every, loop.SAVE_EVERY = loop.SAVE_EVERY, 1
    try:
        assert torch.equal(trained("whole", 3), trained("parts", 1, 2, 3))
    finally:
        loop.SAVE_EVERY = loop_every
