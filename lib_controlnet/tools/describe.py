"""`info`: what a model file is, what it is for, and where the panel lists it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from lib_controlnet.engine.unet import read_shape
from lib_controlnet.enums import ControlNetUnionControlType
from lib_controlnet.families import discover
from lib_controlnet.families.control_lora import full_shapes
from lib_controlnet.files.bases import base_of
from lib_controlnet.files.catalog import ModelFile, is_listed_under, short_hash
from lib_controlnet.files.claims import claim_of
from lib_controlnet.files.layouts import is_diffusers
from lib_controlnet.files.published import describe_size, find_published
from lib_controlnet.nets.cldm import ControlNetParams, read_params
from lib_controlnet.tools.errors import ToolError
from lib_controlnet.tools.source import NO_CONTROL, BaseFile, ControlFile, open_any

Description = dict[str, object]

Shapes = Mapping[str, Sequence[int]]

LABELS: Final = {
    "file": "file",
    "kind": "kind",
    "base": "base",
    "made_on": "made on",
    "layout": "layout",
    "container": "container",
    "structure": "structure",
    "rank": "rank",
    "dtypes": "precision",
    "parameters": "parameters",
    "size": "size",
    "beside": "beside it",
    "averaged": "residuals",
    "types": "types",
    "hash": "hash",
    "published": "published as",
    "panel_name": "in the panel",
    "loaded_by": "loaded by",
    "control_types": "listed under",
    "metadata": "metadata",
}
"""Entries in the order of display, with their titles."""


def describe(path: Path) -> Description:
    """Everything the file tells without reading a tensor, except its hash.

    Raises:
        ModelNotFoundError: there is no such file.
        BrokenCheckpointError: it is damaged, empty, not a model file, or unsafe to load.
    """
    control = open_any(path)
    ckpt = control.ckpt
    entry = ModelFile(path, short_hash(path))
    dtypes = Counter(str(ckpt.dtype(key)).removeprefix("torch.") for key in ckpt.keys)
    found: Description = {
        "file": str(path),
        "kind": re.sub(r"^an? ", "", control.title),
        **_structure(control),
        "container": "pickle" if control.is_pickle else "safetensors",
        "dtypes": dict(dtypes.most_common()),
        "parameters": sum(_count(shape) for shape in ckpt.shapes.values()),
        "size": path.stat().st_size,
        "beside": control.others,
        "hash": entry.hash,
        "published": _name_published(path),
        "metadata": dict(control.file.metadata),
    }
    if control.key not in ("", *NO_CONTROL):
        found["panel_name"] = entry.name
        families = [family for family in discover() if family.matches(ckpt)]
        found["loaded_by"] = [family.name for family in families]
        reads = families[0].preprocessor_for(ckpt) if len(families) == 1 else None
        found["control_types"] = _control_types(entry, reads)
    if control.key == "controlnet":
        found["averaged"] = ckpt.global_average_pooling
    if control.key == "union" and ckpt.shapes.get("task_embedding"):
        count = ckpt.shape("task_embedding")[0]
        found["types"] = [kind.value for kind in ControlNetUnionControlType.in_order()[:count]]
    return found


def _name_published(path: Path) -> str:
    """The published file that it is by name and size, and where that is."""
    size = path.stat().st_size
    known = find_published(path.name, size)
    if known is None:
        return ""
    by = "name" if known.name.lower() == path.name.lower() else "size"
    return describe_size(path.name, size) or f"{known.path} of {known.repository}, by its {by}"


def _count(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _structure(control: ControlFile) -> Description:
    """Base, layout and hyper-parameters, as far as the kind has them."""
    key = control.key
    shapes: Shapes = control.ckpt.shapes
    found: Description = {}
    if key == "control_lora":
        found["rank"] = max((s[0] for n, s in shapes.items() if n.endswith(".down")), default=0)
        shapes = full_shapes(shapes)
        found["made_on"] = claim_of(control.ckpt)
    if key == "checkpoint":
        found["base"] = _checkpoint_base(control)
    elif "input_blocks.0.0.weight" in shapes:
        found["base"] = str(read_shape(shapes))
        try:
            params = read_params(shapes, lambda _block, _width: 1)
        except (KeyError, IndexError) as error:
            found["structure"] = f"incomplete: {error.args[0]} is missing"
        else:
            found["structure"] = _hyper_parameters(params)
    elif (base := base_of(key, shapes)) is not None:
        found["base"] = str(base)
    if key in ("controlnet", "union"):
        theirs = control.ckpt.diffusers or is_diffusers(control.file_names.values())
        found["layout"] = "diffusers" if theirs else "LDM"
    return found


def _checkpoint_base(control: ControlFile) -> str | None:
    try:
        return str(BaseFile(control.path).shape)
    except ToolError:
        return None


def _hyper_parameters(params: ControlNetParams) -> Description:
    return {
        "widths": [block.width_out for block in params.blocks],
        "transformer_depths": [block.depth for block in params.blocks],
        "middle_depth": params.middle[1].depth if 1 in params.middle else 0,
        "linear_projections": any(block.linear for block in params.blocks),
        "context_dim": params.context_dim,
        "adm_channels": params.adm_channels,
        "in_channels": params.in_channels,
        "hint_widths": list(params.hint_widths),
        "residuals": len(params.blocks) + 1,
    }


def _control_types(entry: ModelFile, reads: str | None) -> list[dict[str, str]]:
    """Control types whose list of models names the file, with the preprocessor they start with."""
    from lib_controlnet.detect import listing  # imports every preprocessor

    return [
        {"type": kind, "preprocessor": listing.module_for(entry, kind, reads)}
        for kind in listing.control_types()
        if kind != listing.ALL and is_listed_under(entry, kind)
    ]


def as_text(found: Description) -> str:
    """A description for people: a line for each entry that says something."""
    shown = {key: _show(key, found[key]) for key in LABELS if found.get(key)}
    width = max(len(LABELS[key]) for key in shown)
    lines = []
    for key, text in shown.items():
        first, *rest = text.splitlines()
        lines += [f"{LABELS[key]:{width}}  {first}", *(f"{'':{width}}  {line}" for line in rest)]
    return "\n".join(lines)


def _show(key: str, value: Any) -> str:
    if key == "dtypes":
        return ", ".join(f"{name} ({count} tensors)" for name, count in value.items())
    if key == "parameters":
        return f"{value / 1e6:.3f} million"
    if key == "size":
        return f"{value / 1e6:.1f} MB"
    if key == "beside":
        return f"{value} tensors of other models"
    if key == "averaged":
        return "averaged over the picture (shuffle)"
    if key == "control_types":
        return "\n".join(f"{one['type']} (preprocessor {one['preprocessor']})" for one in value)
    if key in ("structure", "metadata") and isinstance(value, Mapping):
        return "\n".join(f"{name}: {_plain(inner)}" for name, inner in value.items())
    return ", ".join(value) if isinstance(value, list) else str(value)


def _plain(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
