"""A whole session - several units, modes, windows, split batches - against diffusers' networks.

diffusers computes every residual and the final output; only the arithmetic of modes and windows
is written out here, from the paper's guess mode (0.825 per layer) and the interface's rule.
"""

from __future__ import annotations

import oracle
import pytest
import torch
from oracle import assert_close, diffusers_file, load, run_theirs
from sessions import FakeHost, info, prepared
from support import inputs, tiny_base

from lib_controlnet.engine.session import ControlSession
from lib_controlnet.enums import ControlMode
from lib_controlnet.host.a1111.rows import build_layout
from lib_controlnet.pictures.placement import to_hint
from lib_controlnet.units.weight_curve import parse_weight_curve

ROWS = build_layout([1], 1, 2)
BALANCED, PROMPT, CONTROL = ControlMode.BALANCED, ControlMode.PROMPT, ControlMode.CONTROL


def factors(mode: ControlMode, layers: int) -> list[float]:
    """Fall-off per layer, written out: 13 layers end at 1, SDXL's 10 at 0.825 ** 3."""
    return [1.0 if mode is BALANCED else 0.825 ** (12 - i) for i in range(layers)]


WHOLE, SPLIT = [(0, 2)], [(0, 1), (1, 2)]


@pytest.mark.parametrize(
    ("kind", "calls", "progress", "is_curved"),
    [
        ("SD1", WHOLE, 0.0, False),  # units 0 and 1 act
        ("SD1", SPLIT, 0.3, False),  # all three
        ("SD1", WHOLE, 0.5, False),  # unit 1 has just ended
        ("SD2", SPLIT, 0.95, False),  # unit 0 alone
        ("SDXL", WHOLE, 0.3, False),
        ("SD1", SPLIT, 0.35, True),
    ],
    ids=["sd1-start", "sd1-split", "sd1-boundary", "sd2-end", "sdxl", "sd1-curve"],
)
@torch.no_grad()
def test_session_agrees_with_diffusers(kind, calls, progress, is_curved, tmp_path):
    base = tiny_base(kind)
    theirs_unet = oracle.u_net_weights(base.module, oracle.TINY[kind])
    call = inputs(kind)
    extra, call["y"] = oracle.vector_condition(theirs_unet, rows=2)
    asked = [
        {"weight": 0.9, "control_mode": BALANCED},
        {"weight": 1.4, "control_mode": PROMPT, "guidance_end": 0.5},
        {"weight": 0.7, "control_mode": CONTROL, "guidance_start": 0.25, "guidance_end": 0.9},
    ]
    if is_curved:  # diffusers' own scale, given anew for each step
        for fields in asked:
            fields["weight_curve"] = parse_weight_curve("1.5@0.2, 0.5@0.4")
    units, added = [], None
    for seed, fields in enumerate(asked):
        theirs, path = diffusers_file(tmp_path, oracle.TINY[kind], seed)
        unit = prepared(load(path, base), seed, **fields)
        units.append(unit)
        start, end = fields.get("guidance_start", 0.0), fields.get("guidance_end", 1.0)
        if not start <= progress < end:
            continue
        outs = run_theirs(theirs, call, to_hint(unit.detected), extra)
        mode = fields["control_mode"]
        scale = fields["weight"] * (1.5 - 5 * (progress - 0.2) if is_curved else 1.0)
        scales = [scale * f for f in factors(mode, len(outs))]
        rows = torch.tensor([1.0, 0.0 if mode is CONTROL else 1.0])[:, None, None, None]
        outs = [out * scale * rows for out, scale in zip(outs, scales, strict=True)]
        added = outs if added is None else [a + b for a, b in zip(added, outs, strict=True)]
    expected = theirs_unet(
        call["x"],
        call["timesteps"],
        call["context"],
        down_block_additional_residuals=tuple(added[:-1]),
        mid_block_additional_residual=added[-1],
        return_dict=False,
        **extra,
    )[0]

    session = ControlSession(FakeHost(), units)
    session.begin_pass(info(base))
    outputs = []
    with session.sampling(base.module):
        session.begin_evaluation(ROWS, progress)
        for first, last in calls:
            part = {k: None if v is None else v[first:last] for k, v in call.items()}
            outputs.append(base.module(**part))
    assert_close(torch.cat(outputs), expected)


@pytest.mark.parametrize("steps", [4, 10, 20, 50])
def test_windows_on_step_boundaries_are_those_of_diffusers(steps):
    """diffusers keeps a ControlNet at step i unless i/N < start or (i + 1)/N > end."""
    from lib_controlnet.engine.window import Window

    for first in range(steps):
        for last in range(first + 1, steps + 1):
            window = Window(first / steps, last / steps)
            ours = [window.is_open(i / steps) for i in range(steps)]
            theirs = [
                not (i / steps < first / steps or (i + 1) / steps > last / steps)
                for i in range(steps)
            ]
            assert ours == theirs
