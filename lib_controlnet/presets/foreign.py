"""Presets out of files of others: older ControlNets, generation parameters, requests.

The ControlNet of A1111 up to 1.1.447, and those built into Forge and its kin, keep one unit a file
`presets/<name>.txt`, which holds the text that generation parameters have for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from lib_controlnet.errors import PresetError
from lib_controlnet.presets.form import FORMAT, Preset, read_document, read_json, write_units
from lib_controlnet.units import infotext
from lib_controlnet.units.unit import parse_unit, present_names

MAX_TEXT: Final = 200_000
"""Characters of a text that is no JSON."""
_WHERE: Final = ("alwayson_scripts", "controlnet", "args")


def read_any(data: bytes) -> Preset:
    """The preset of a file, whoever wrote it.

    Understood are our documents; objects of one unit, lists of them, and requests with
    `alwayson_scripts`; the text of one unit; and texts with whole generation parameters.

    Raises:
        PresetError: it is none of these.
    """
    start = data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if start in (b"{", b"["):
        return _of_json(read_json(data))
    try:
        text = data[:MAX_TEXT].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        msg = "it is neither text nor JSON"
        raise PresetError(msg) from error
    return read_text(text)


def read_text(text: str) -> Preset:
    """The preset of generation parameters: of one unit as older ControlNets wrote it, or of all.

    Raises:
        PresetError: there is no unit in it.
    """
    unread = dict[int, dict[str, str]]()
    found = infotext.parse_text(text[:MAX_TEXT], unread)
    is_whole = bool(found)
    if not is_whole:
        try:
            found = {0: infotext.parse(text.strip(), unread.setdefault(0, {}))}
        except ValueError as error:
            msg = f"it holds no unit: {error}"
            raise PresetError(msg) from error
    slots: Sequence[Mapping[str, Any]] = [
        {"enabled": True, **found[number]} if number in found else {"enabled": False}
        for number in range(max(found) + 1)
    ]
    units = [parse_unit(fields, number) for number, fields in enumerate(slots)]
    written = write_units(units, False, lambda _part, _data: "")[0]
    notes = [
        f"unit {number}: {name} {fault}; that is left out"
        for number, faults in sorted(unread.items())
        for name, fault in faults.items()
    ]
    return Preset(tuple(written), is_whole, False, tuple(notes))


def _of_json(found: Any) -> Preset:
    if isinstance(found, Mapping) and (found.get("format") == FORMAT or "units" in found):
        return read_document(found)
    units = found
    for key in _WHERE:
        if isinstance(units, Mapping):
            units = next((v for name, v in units.items() if str(name).lower() == key), units)
    if isinstance(units, Mapping):
        if not present_names(units, is_strict=False)[0].keys() & {"module", "model"}:
            msg = "it is JSON, but neither a preset nor a unit nor a request with units"
            raise PresetError(msg)
        return read_document({"units": [units], "scope": "unit"})
    slots = [{"enabled": False} if unit is None else unit for unit in units]
    return read_document({"units": slots, "scope": "all"})
