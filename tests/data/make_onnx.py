"""Makes the small ONNX files of this folder, in the form of YOLOX, RTMPose, SCRFD and ArcFace.

They look at colours: the boxes are where a cell of 32 x 32 pixels is red (a person, a face) or
green (a dog), the points follow from the brightness of columns and rows. Needs the package `onnx`:
`python tests/data/make_onnx.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FOLDER = Path(__file__).resolve().parent / "onnx"
CLASSES = 80
PERSON, DOG = 0, 16


def _save(name: str, nodes: list, constants: dict, given: tuple, outputs: dict) -> None:
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, given)],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)
    onnx.checker.check_model(model)
    FOLDER.mkdir(exist_ok=True)
    onnx.save(model, FOLDER / f"{name}.onnx")


def boxes() -> None:
    """(1, 3, 640, 640) in 0 to 255 -> (1, 8400, 85)."""
    weight = np.zeros((5 + CLASSES, 3, 1, 1), np.float32)
    weight[4, :, 0, 0] = 1 / 255, 1 / 255, -2 / 255
    weight[5 + PERSON, :2, 0, 0] = 1 / 255, -1 / 255
    weight[5 + DOG, :2, 0, 0] = -1 / 255, 1 / 255
    constants, nodes, grids = {"weight": weight}, [], []
    for stride in (8, 16, 32):
        bias = np.zeros(5 + CLASSES, np.float32)
        bias[:4] = 0.5, 0.5, np.log(4), np.log(8)
        bias[4:] = 0 if stride == 32 else -4
        bias[4] *= -1  # a product of two negative numbers would be sure
        constants[f"bias{stride}"] = bias
        constants[f"shape{stride}"] = np.array([1, 5 + CLASSES, -1], np.int64)
        mean, maps, flat, rows = (f"{part}{stride}" for part in ("mean", "maps", "flat", "rows"))
        sides = {"kernel_shape": [stride] * 2, "strides": [stride] * 2}
        nodes += [
            helper.make_node("AveragePool", ["input"], [mean], **sides),
            helper.make_node(
                "Conv", [mean, "weight", f"bias{stride}"], [maps], kernel_shape=[1, 1]
            ),
            helper.make_node("Reshape", [maps, f"shape{stride}"], [flat]),
            helper.make_node("Transpose", [flat], [rows], perm=[0, 2, 1]),
        ]
        grids.append(rows)
    nodes.append(helper.make_node("Concat", grids, ["output"], axis=1))
    _save("boxes", nodes, constants, (1, 3, 640, 640), {"output": (1, 8400, 5 + CLASSES)})


def points(name: str, count: int, width: int, height: int, seed: int) -> None:
    """(b, 3, height, width) -> (b, count, 2 width) and (b, count, 2 height)."""
    rng = np.random.default_rng(seed)
    constants, nodes, size = {}, [], {"kernel_shape": [1, 1]}
    for axis, pixels, mean_over in (("x", width, 2), ("y", height, 3)):
        constants[f"weight_{axis}"] = rng.normal(0, 0.35, (2 * count, 3, 1, 1)).astype(np.float32)
        constants[f"shape_{axis}"] = np.array([-1, count, 2 * pixels], np.int64)
        nodes += [
            helper.make_node("ReduceMean", ["input"], [f"mean_{axis}"], axes=[mean_over]),
            helper.make_node("Conv", [f"mean_{axis}", f"weight_{axis}"], [f"maps_{axis}"], **size),
            helper.make_node("Reshape", [f"maps_{axis}", f"shape_{axis}"], [f"simcc_{axis}"]),
        ]
    outputs = {"simcc_x": ("b", count, 2 * width), "simcc_y": ("b", count, 2 * height)}
    _save(name, nodes, constants, ("b", 3, height, width), outputs)


def faces() -> None:
    """(1, 3, 640, 640) in -1 to 1 -> nine outputs, without a batch."""
    constants, nodes, outputs = {}, [], {}
    for stride in (8, 16, 32):
        nodes.append(
            helper.make_node(
                "AveragePool",
                ["input"],
                [f"mean{stride}"],
                kernel_shape=[stride] * 2,
                strides=[stride] * 2,
            )
        )
    for kind, channels in (("score", 1), ("box", 4), ("point", 10)):
        weight = np.zeros((2 * channels, 3, 1, 1), np.float32)
        bias = np.linspace(-1, 1, 2 * channels).astype(np.float32)
        if kind == "score":
            weight[0, :, 0, 0] = 0.5, -0.5, 0
        elif kind == "box":
            bias = np.float32([1, 1.5, 1, 1.5, 2, 2, 2, 2])
        constants[f"weight_{kind}"] = weight
        constants[f"shape_{kind}"] = np.array([-1, channels], np.int64)
        for stride in (8, 16, 32):
            end = f"{kind}{stride}"
            off = kind == "score"
            constants[f"bias_{end}"] = (
                np.float32([0, -5] if stride == 32 else [-5, -5]) if off else bias
            )
            names = [f"mean{stride}", f"weight_{kind}", f"bias_{end}"]
            nodes += [
                helper.make_node("Conv", names, [f"maps_{end}"], kernel_shape=[1, 1]),
                helper.make_node("Transpose", [f"maps_{end}"], [f"last_{end}"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"last_{end}", f"shape_{kind}"], [end]),
            ]
            outputs[end] = ((640 // stride) ** 2 * 2, channels)
    _save("faces", nodes, constants, (1, 3, 640, 640), outputs)


def recogniser() -> None:
    """(b, 3, 112, 112) in -1 to 1 -> (b, 512), of the mean colours of its four quarters."""
    weight = np.random.default_rng(7).normal(0, 1, (12, 512)).astype(np.float32)
    sides = {"kernel_shape": [56, 56], "strides": [56, 56]}
    nodes = [
        helper.make_node("AveragePool", ["input"], ["quarters"], **sides),
        helper.make_node("Flatten", ["quarters"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["embedding"]),
    ]
    given, outputs = ("b", 3, 112, 112), {"embedding": ("b", 512)}
    _save("recogniser", nodes, {"weight": weight}, given, outputs)


if __name__ == "__main__":
    faces()
    recogniser()
    boxes()
    points("people", 133, 288, 384, seed=5)
    points("animals", 17, 256, 256, seed=6)
