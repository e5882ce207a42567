"""Masked pixels have the value that a model was trained on, and another one is said."""

import dataclasses

import numpy as np
import pytest
import torch
from oracle import TINY, control_net, union_net
from sessions import FakeHost, info, picture, prepared
from support import memory_checkpoint, tiny_base

from lib_controlnet.detect import preprocess
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.enums import ControlNetUnionControlType
from lib_controlnet.families import identify

FILES = {
    "control_v11p_sd15_inpaint": ("SD1", -1.0),
    "noobaiInpainting_v10.fp16": ("SDXL", 0.0),
    "NoobAI-Inpainting/diffusion_pytorch_model": ("SDXL", 0.0),
    "noob_sdxl_controlnet_canny.fp16": ("SDXL", -1.0),
    "Kataragi_inpaintXL-fp16": ("SDXL", -1.0),
    "union_promax": ("union", 0.0),
}


@pytest.fixture(scope="module")
def networks():
    """By file: what loads it, and what it was loaded for."""
    made = {}
    weights = {kind: control_net(TINY[kind]).state_dict() for kind in ("SD1", "SDXL")}
    weights["union"] = union_net(TINY["SD1"], 8).state_dict()
    for name, (kind, _value) in FILES.items():
        base = tiny_base("SDXL" if kind == "SDXL" else "SD1")
        ckpt = memory_checkpoint(weights[kind], f"{name}.safetensors")
        made[name] = identify(ckpt).load(ckpt, base, torch.float32, "cpu"), base
        assert identify(ckpt).describe(ckpt).masked == made[name][0].wants.masked
    return made


@pytest.mark.parametrize("module", ["inpaint_only", "inpaint", "inpaint_noobai_xl"])
@pytest.mark.parametrize("name", FILES)
def test_masked_pixels_are_marked_as_the_file_reads_them(networks, name, module):
    network, base = networks[name]
    unit = prepared(network, union_control_type=ControlNetUnionControlType.INPAINT)
    mask = np.zeros((64, 128, 1), np.uint8)
    mask[:, 64:] = 255
    unit.detected = preprocess.run_preprocessor(module, np.concatenate([picture(), mask], 2)).image
    detector = preprocess.get(module)
    unit.masked = detector.masked
    unit.unit = dataclasses.replace(unit.unit, module=module)
    session = ControlSession(FakeHost(), [unit])
    session.begin_pass(info(base))
    (control,) = session.active
    expected = FILES[name][1] if detector.masked is None else detector.masked
    assert bool((control.hint[..., 64:] == expected).all())
    assert float(control.hint[..., :64].min()) >= 0.0
    said = f"ControlNet unit 0: {module} marks masked pixels by 0, and {network.name} reads -1"
    assert any(one.startswith(said) for one in session.comments) == (expected != FILES[name][1])
