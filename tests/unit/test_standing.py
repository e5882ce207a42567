"""Names that several folders have: others keep theirs, ours are loaded from our folder."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import preload

ROOT = Path(__file__).resolve().parents[2]
STANDING = ROOT / "lib_controlnet" / "standing.py"

PROBE = """
import json, runpy, sys
before, behind, imports = json.loads(sys.argv[1])
give_way = runpy.run_path({standing!r})["give_way"]
give_way(), give_way()
# A host puts all folders on the path later, and makes the list anew at each.
for folder in [*behind, {root!r}, *before]:
    sys.path = [folder] + sys.path
for name in imports:
    __import__(name)
standing = runpy.run_path({standing!r})
other = standing["claim"]()
found = {{"other": other and str(other), "annotator": None, "finders": 0}}
if other is None:
    found["annotator"] = standing["stand"]("annotator")
    from lib_controlnet import limits
    found["limits"] = limits.__file__
import annotator, lib_controlnet
found["where"] = [next(iter(m.__path__)) for m in (lib_controlnet, annotator)]
found["finders"] = sum(hasattr(finder, "controlnet_root") for finder in sys.meta_path)
print(json.dumps(found))
"""


def probe(before: Any = (), behind: Any = (), imports: Any = ()) -> dict[str, Any]:
    """What a process finds whose path holds folders before ours and behind it."""
    code = PROBE.format(standing=str(STANDING), root=str(ROOT))
    asked = json.dumps([[*map(str, before)], [*map(str, behind)], list(imports)])
    command = [sys.executable, "-I", "-c", code, asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def owner(folder: Path, name: str, is_regular: bool = True) -> Path:
    """A folder with a package, which is regular or not."""
    (folder / name).mkdir(parents=True)
    (folder / name / "theirs.py").write_text("")
    if is_regular:
        (folder / name / "__init__.py").write_text("")
    return folder


def test_free_names_are_ours_wherever_our_folder_stands(tmp_path: Path) -> None:
    found = probe(behind=[tmp_path])
    assert found["other"] is None
    assert found["annotator"] == "annotator"
    assert found["where"] == [str(ROOT / "lib_controlnet"), str(ROOT / "annotator")]
    assert found["limits"] == str(ROOT / "lib_controlnet" / "limits.py")
    assert found["finders"] == 1


PLACES = pytest.mark.parametrize("place", ["before", "behind"])
KINDS = pytest.mark.parametrize("is_regular", [True, False], ids=["regular", "namespace"])


@PLACES
@KINDS
@pytest.mark.parametrize("imports", [(), ("annotator.theirs",)], ids=["later", "already"])
def test_an_annotator_of_others_stays_theirs(
    tmp_path: Path, place: str, is_regular: bool, imports: tuple[str, ...]
) -> None:
    theirs = owner(tmp_path, "annotator", is_regular)
    found = probe(**{place: [theirs]}, imports=imports)
    assert found["other"] is None
    assert found["annotator"] == "controlnet_annotator"
    assert found["where"] == [str(ROOT / "lib_controlnet"), str(theirs / "annotator")]


@PLACES
@KINDS
def test_a_core_of_others_stays_theirs_and_nothing_of_ours_is_loaded(
    tmp_path: Path, place: str, is_regular: bool
) -> None:
    theirs = owner(tmp_path, "lib_controlnet", is_regular)
    found = probe(**{place: [theirs]}, imports=("lib_controlnet.theirs",))
    assert found["other"] == found["where"][0] == str(theirs / "lib_controlnet")
    assert found["where"][1] == str(ROOT / "annotator")


BUILT_IN = """
def preload(parser):
    parser.add_argument("--controlnet-loglevel", default="INFO")
    parser.add_argument(
        '--controlnet-tracemalloc', action="store_true")
"""


def test_flags_of_what_is_built_in_are_left_to_it(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "sd_x").mkdir()
    (tmp_path / "sd_x" / "preload.py").write_text(BUILT_IN)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "preload.py").write_bytes(b"\xff\xfe--controlnet-dir")
    host = SimpleNamespace(extensions_builtin_dir=str(tmp_path))
    monkeypatch.setitem(sys.modules, "modules.paths_internal", host)
    parser = argparse.ArgumentParser()
    preload.preload(parser)
    exec(BUILT_IN + "preload(parser)", {"parser": parser})
    flags = {flag for action in parser._actions for flag in action.option_strings}
    assert {name for name, _options in preload.FLAGS} <= flags
