"""Which files are offered under which names, and which one a text means."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib_controlnet.detect import listing
from lib_controlnet.enums import UNION_TYPES
from lib_controlnet.errors import ModelNotFoundError
from lib_controlnet.files.catalog import Catalog, short_hash
from lib_controlnet.files.checkpoint import open_checkpoint
from lib_controlnet.files.hash_store import HashStore

EMPTY = "e3b0c442"
"""Hash of files below 1 MiB: the digest of nothing."""


def touch(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "control_v11p_sd15_canny.pth",
        "control_v11f1p_sd15_depth_fp16.safetensors",
        "Control_Scribble.safetensors",
        "sub/diffusers_xl_canny_full.safetensors",
        "sub/deeper/t2iadapter_sketch.pt",
        "None.safetensors",
        "notes.txt",
        "control_v11p_sd15_canny.yaml",
    ):
        touch(tmp_path / name)
    return tmp_path


def stems(names: list[str]) -> list[str]:
    return [name.rsplit(" [", 1)[0] for name in names]


def test_hash_is_that_of_64_kib_at_1_mib(tmp_path: Path) -> None:
    content = os.urandom(0x100000 + 0x10000 + 99)
    path = touch(tmp_path / "a.safetensors", content)
    expected = hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]
    assert short_hash(path) == expected
    assert Catalog([tmp_path]).names() == [f"a [{expected}]"]


def test_hash_of_small_and_missing_files(tmp_path: Path) -> None:
    assert short_hash(touch(tmp_path / "small.pt")) == EMPTY
    assert short_hash(tmp_path / "gone.pt") == "NOFILE"


def test_names_are_found_recursively_and_sorted_by_file_name(folder: Path) -> None:
    assert stems(Catalog([folder]).names()) == [
        "Control_Scribble",
        "control_v11f1p_sd15_depth_fp16",
        "control_v11p_sd15_canny",
        "diffusers_xl_canny_full",
        "t2iadapter_sketch",
    ]


def test_earlier_folder_has_the_plain_name(tmp_path: Path) -> None:
    first, second = touch(tmp_path / "a" / "m.pt"), touch(tmp_path / "b" / "m.pt")
    catalog = Catalog([second.parent, first.parent, tmp_path / "missing"])
    assert catalog.names() == [f"m [{EMPTY}]", f"a/m [{EMPTY}]"]
    assert [catalog.find(name) for name in (*catalog.names(), "m")] == [second, first, second]


def test_same_stem_with_other_content_is_listed_apart(tmp_path: Path) -> None:
    one = touch(tmp_path / "a" / "m.pt", b"1" * 0x110000)
    two = touch(tmp_path / "b" / "m.safetensors", b"2" * 0x110000)
    catalog = Catalog([tmp_path])
    assert len(catalog.names()) == 2
    assert [catalog.find(name) for name in catalog.names()] == [one, two]


def test_small_files_of_one_name_are_told_apart_by_their_folder(tmp_path: Path) -> None:
    one = touch(tmp_path / "canny" / "diffusion_pytorch_model.safetensors", b"1")
    two = touch(tmp_path / "depth" / "diffusion_pytorch_model.safetensors", b"22")
    catalog = Catalog([tmp_path])
    names = catalog.names()
    assert names == [
        f"diffusion_pytorch_model [{EMPTY}]",
        f"depth/diffusion_pytorch_model [{EMPTY}]",
    ]
    assert [catalog.find(name) for name in names] == [one, two]
    assert catalog.find("depth/diffusion_pytorch_model") == two
    assert catalog.find("depth") == two
    assert catalog.find("canny") == one


def test_hashes_are_read_once_and_remembered(tmp_path: Path, monkeypatch) -> None:
    models, store = tmp_path / "models", tmp_path / "cache" / "hashes.json"
    for index in range(100):
        touch(models / f"m{index}.safetensors", bytes([index]) * (0x100000 + 9))
    names = Catalog([models], hashes=HashStore(store)).names()
    assert len({name.rsplit(" ", 1)[1] for name in names}) == 100
    read = []
    monkeypatch.setattr(
        "lib_controlnet.files.catalog.short_hash", lambda path: read.append(path) or "0"
    )
    assert Catalog([models], hashes=HashStore(store)).names() == names
    assert read == []
    changed = touch(models / "m7.safetensors", b"other")
    Catalog([models], hashes=HashStore(store)).names()
    assert read == [changed]


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": 1}', '{"a": [1, 2, 3]}', "\0"])
def test_damaged_list_of_hashes_is_made_anew(tmp_path: Path, content: str) -> None:
    touch(tmp_path / "models" / "m.pt")
    store = tmp_path / "hashes.json"
    store.write_text(content)
    assert Catalog([tmp_path / "models"], hashes=HashStore(store)).names() == [f"m [{EMPTY}]"]
    assert EMPTY in store.read_text()


def test_hashes_that_cannot_be_kept_are_done_without(tmp_path: Path) -> None:
    touch(tmp_path / "m.pt")
    store = touch(tmp_path / "file") / "hashes.json"  # below a file, not a folder
    assert Catalog([tmp_path], hashes=HashStore(store)).names() == [f"m [{EMPTY}]"]


def test_links_in_circles_end(folder: Path) -> None:
    (folder / "sub" / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "gone.pt").symlink_to(folder / "nowhere.pt")
    assert len(Catalog([folder]).names()) == 5


def test_linked_folder_is_scanned(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "link").symlink_to(folder, target_is_directory=True)
    assert len(Catalog([other]).names()) == 5


def test_refresh_sees_new_and_lost_files(folder: Path) -> None:
    catalog = Catalog([folder])
    assert len(catalog.names()) == 5
    touch(folder / "new.safetensors")
    (folder / "Control_Scribble.safetensors").unlink()
    assert "new" not in stems(catalog.names())
    catalog.refresh()
    assert "new" in stems(catalog.names())
    assert "Control_Scribble" not in stems(catalog.names())


def test_row_21_hidden_keys_sort_and_filter_models(folder: Path) -> None:
    os.utime(folder / "control_v11p_sd15_canny.pth", (2e9, 2e9))
    assert stems(Catalog([folder], "date").names())[0] == "control_v11p_sd15_canny"
    by_path = stems(Catalog([folder], "path name").names())
    assert by_path[-2:] == ["t2iadapter_sketch", "diffusers_xl_canny_full"]
    assert stems(Catalog([folder], name_filter=" CANNY").names()) == [
        "control_v11p_sd15_canny",
        "diffusers_xl_canny_full",
    ]


@pytest.mark.parametrize(
    ("text", "stem"),
    [
        (f"control_v11p_sd15_canny [{EMPTY}]", "control_v11p_sd15_canny"),
        ("control_v11p_sd15_canny", "control_v11p_sd15_canny"),
        ("CONTROL_v11p_SD15_canny", "control_v11p_sd15_canny"),
        ("control_v11p_sd15_canny [d14c016b]", "control_v11p_sd15_canny"),
        ("  control_scribble [00000000]", "Control_Scribble"),
        ("canny", "control_v11p_sd15_canny"),
        ("depth [0123abcd]", "control_v11f1p_sd15_depth_fp16"),
        ("xl_canny", "diffusers_xl_canny_full"),
    ],
)
def test_texts_that_mean_a_file(text: str, stem: str, folder: Path) -> None:
    assert Catalog([folder]).find(text).stem == stem


def test_right_hash_decides_between_copies(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "m.pt", b"1" * 0x110000)
    two = touch(tmp_path / "b" / "M.safetensors", b"2" * 0x110000)
    assert Catalog([tmp_path]).find(f"m [{short_hash(two)}]") == two


def test_repository_folder_names_a_generic_stem(tmp_path: Path) -> None:
    touch(tmp_path / "controlnet-canny" / "diffusion_pytorch_model.fp16.safetensors")
    depth = touch(tmp_path / "controlnet-depth" / "diffusion_pytorch_model.safetensors")
    catalog = Catalog([tmp_path])
    assert catalog.find("controlnet-depth") == depth
    assert stems(catalog.for_type("Depth")) == ["diffusion_pytorch_model"]


@pytest.mark.parametrize("text", ["normal_bae", "", "  ", "[12345678]"])
def test_unknown_name_lists_close_ones_and_the_folders(text: str, folder: Path) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        Catalog([folder]).find(text)
    message = str(caught.value)
    assert message.startswith(f"control model {text!r} is not found; the closest names are ")
    assert message.endswith(f"searched 5 models in the folders {folder}")
    assert caught.value.status_code == 404


def test_near_miss_names_the_nearest_first(folder: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"closest names are control_v11p_sd15_canny \["):
        Catalog([folder]).find("control_v11p_sd15_cany")


def test_no_models_at_all_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no model files in the folders"):
        Catalog([tmp_path]).find("canny")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("All", 6),
        ("Canny", ["control_v11p_sd15_canny", "diffusers_xl_canny_full", "union_promax"]),
        ("Scribble", ["Control_Scribble", "t2iadapter_sketch", "union_promax"]),
        ("T2I-Adapter", ["t2iadapter_sketch"]),
        ("IP-Adapter", []),
        ("Shuffle", []),
    ],
)
def test_models_of_a_control_type(kind: str, expected: object, folder: Path) -> None:
    touch(folder / "union_promax.safetensors")
    found = stems(Catalog([folder]).for_type(kind))
    assert found == expected or len(found) == expected


# --- the list as a whole ----------------------------------------------------------------------

NO_MODELS = (
    "._control_v11p_sd15_canny.safetensors",
    ".ipynb_checkpoints/control_canny.safetensors",
    ".hidden.pth",
    "sub/.git/objects/a.bin",
    "__MACOSX/sub/canny.safetensors",
    "optimizer.bin",
    "checkpoint-500/scheduler.bin",
    "checkpoint-500/random_states_0.pth",
    "run/rng_state_1.pth",
    "run/training_args.bin",
    "canny.safetensors.part",
    "canny.safetensors.tmp",
    "canny.yaml",
    "None.ckpt",
)


def test_what_is_no_model_is_not_offered(tmp_path: Path) -> None:
    for name in NO_MODELS:
        touch(tmp_path / name)
    touch(tmp_path / "empty.safetensors", b"")
    (tmp_path / "folder.pth").mkdir()
    assert Catalog([tmp_path]).names() == []


OTHER_MODELS = {
    "checkpoint": "model.diffusion_model.input_blocks.0.0.weight",
    "diffusers_unet": "up_blocks.0.resnets.0.conv1.weight",
    "vae": "decoder.conv_in.weight",
    "lora": "lora_unet_down_blocks_0_attentions_0.lora_up.weight",
    "embedding": "emb_params",
}
CONTROL_MODELS = {
    "whole": "control_model.input_hint_block.0.weight model.diffusion_model.x first_stage_model.y",
    "t2i": "body.0.block1.weight conv_in.weight",
    "lllite": "lllite_unet_x.down.0.weight",
    "ip": "image_proj.proj.weight",
    "of_no_known_kind": "x",
}


def test_models_of_other_kinds_are_not_offered(tmp_path: Path) -> None:
    for stem, names in (OTHER_MODELS | CONTROL_MODELS).items():
        tensors = {name: torch.ones(1) for name in names.split()}
        save_file(tensors, tmp_path / f"{stem}.safetensors")
    assert stems(Catalog([tmp_path]).names()) == sorted(CONTROL_MODELS)


LISTED_BY_KIND = {
    "task_embedding input_hint_block.0.weight control_add_embedding.linear_1.weight": UNION_TYPES,
    "body.0.block1.weight conv_in.weight": ["t2i-adapter"],
    "style_embedding": ["t2i-adapter"],
    "image_proj.proj.weight": ["ip-adapter"],
    "input_hint_block.0.weight down_blocks.0.motion_modules.0.x": ["sparsectrl"],
    "input_hint_block.0.weight": [],
    "lllite_unet_x.down.0.weight": [],
}


@pytest.mark.parametrize("names", LISTED_BY_KIND)
def test_a_kind_is_listed_whatever_the_file_is_called(names: str, tmp_path: Path) -> None:
    tensors = {name: torch.ones(1) for name in names.split()}
    save_file(tensors, tmp_path / "zzz.safetensors")
    save_file(tensors, tmp_path / "own.safetensors", metadata={"control_type": "Recolor"})
    catalog = Catalog([tmp_path])
    kinds = [kind.lower() for kind in listing.CONTROL_TYPES]
    found = [kind for kind in kinds if "zzz" in stems(catalog.for_type(kind))]
    assert found == sorted(LISTED_BY_KIND[names])
    assert [kind for kind in kinds if "own" in stems(catalog.for_type(kind))] == ["recolor"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    """A pipe would be read for ever, and some devices too."""
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "zero.pth").symlink_to("/dev/zero")
    (tmp_path / "gone.pth").symlink_to(tmp_path / "nowhere")
    (tmp_path / "itself.pth").symlink_to(tmp_path / "itself.pth")
    (tmp_path / "loop").symlink_to(tmp_path)
    touch(tmp_path / "real.pth")
    for order in ("name", "date", "path name"):
        assert Catalog([tmp_path], order).names() == [f"real [{EMPTY}]"]
    assert short_hash(tmp_path / "pipe.safetensors") == "NOFILE"
    with pytest.raises(ModelNotFoundError, match="is no file"):
        open_checkpoint(tmp_path / "pipe.safetensors")


def test_folders_may_lie_deep(tmp_path: Path) -> None:
    deepest = tmp_path.joinpath(*["d"] * 1100)
    made = [tmp_path]
    try:
        for _ in range(1100):
            made.append(made[-1] / "d")
            made[-1].mkdir()
        touch(deepest / "m.pth")
        touch(tmp_path / "n.pth")
        assert Catalog([tmp_path]).names() == [f"m [{EMPTY}]", f"n [{EMPTY}]"]
    finally:  # what tests leave is removed by calls inside calls, which this would be too deep for
        (deepest / "m.pth").unlink(missing_ok=True)
        for folder in reversed(made[1:]):
            folder.rmdir()


def test_a_disk_is_not_walked_to_its_end(tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr("lib_controlnet.files.catalog.FOLDERS_LIMIT", 20)
    for number in range(40):
        touch(tmp_path / f"{number:02}" / f"m{number}.pth")
    assert 0 < len(Catalog([tmp_path]).names()) < 40
    assert "more than 21 folders; the rest is left out" in caplog.text


def test_every_file_has_a_name_of_its_own(tmp_path: Path) -> None:
    made = [
        touch(tmp_path / name)
        for name in (
            *("m.pth", "m.safetensors", "a/m.pth", "b/m.pth", "a/c/m.pth", "b/c/m.pth"),
            *("A/M.pth", "x [fp16].pth", "x.pth", " blank .pth", "two\nlines.pth", 'q"uote.pth'),
        )
    ]
    catalog = Catalog([tmp_path])
    assert len(catalog.names()) == len(made)
    assert sorted(catalog.find(name) for name in catalog.names()) == sorted(made)
    assert all(name == name.splitlines()[0] for name in catalog.names())


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_names_of_any_bytes_are_shown_and_found(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/mod\xe4ll.safetensors"
    Path(os.fsdecode(raw)).write_bytes(b"x")
    catalog = Catalog([tmp_path], hashes=HashStore(tmp_path / "hashes.json"))
    assert catalog.names() == [rf"mod\xe4ll [{EMPTY}]"]
    assert os.fsencode(catalog.find(r"mod\xe4ll")) == raw
    with pytest.raises(ModelNotFoundError) as caught:
        catalog.find("\udce4")
    assert caught.value.detail.encode()


@pytest.mark.parametrize(
    ("text", "stem"),
    [
        ("x [fp16]", "x [fp16]"),
        ("x [FP16]", "x [fp16]"),
        (f"x [fp16] [{EMPTY}]", "x [fp16]"),
        ("x [fp16].safetensors", "x [fp16]"),
        ("x", "x"),
        (f"x [{EMPTY}]", "x"),
        ("x.safetensors", "x"),
        ("X.SAFETENSORS [00000000]", "x"),
        ("sub/deep.pth", "deep"),
        ("sub\\deep", "deep"),
        ("SUB/deep [00000000]", "deep"),
        ("cafe\u0301", "caf\u00e9"),
        ("Case", "Case"),
        ("case", "case"),
        ("cASE", "Case"),
        ("x.pth", "x"),
    ],
)
def test_names_as_people_write_them(text: str, stem: str, tmp_path: Path) -> None:
    for name in ("x", "x [fp16]", "sub/deep", "caf\u00e9", "Case", "case"):
        touch(tmp_path / f"{name}.safetensors")
    assert Catalog([tmp_path]).find(text).stem == stem


def test_whole_paths_are_found_and_others_are_not(tmp_path: Path) -> None:
    inside, outside = touch(tmp_path / "in" / "m.pth"), touch(tmp_path / "out" / "o.pth")
    catalog = Catalog([tmp_path / "in"])
    assert catalog.find(str(inside)) == inside
    for text in (str(outside), "../out/o.pth", "other/m.pth", "m/m"):
        with pytest.raises(ModelNotFoundError):
            catalog.find(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x", None),
        (f"x [{EMPTY}]", None),
        ("X.safetensors", None),
        ("x [fp16]", None),
        ("x [d14c016b]", f"there is no control model 'x [d14c016b]' with this hash; x [{EMPTY}]"),
        ("x.pth", f"there is no control model 'x.pth' with this ending; x [{EMPTY}] is used"),
        ("deep", f"'deep' is taken to be deeper [{EMPTY}], the shortest of 2 names that contain"),
    ],
)
def test_guesses_are_said(text: str, said: str | None, tmp_path: Path) -> None:
    for name in ("x", "x [fp16]", "deeper", "deepest"):
        touch(tmp_path / f"{name}.safetensors")
    remark = Catalog([tmp_path]).remark(text)
    assert remark is None if said is None else said in remark


@pytest.mark.parametrize(
    "text", [" " * 100_000, "[" * 100_000, "a" * 100_000, "x [" + "a" * 90_000]
)
def test_long_names_take_no_time(text: str, folder: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        Catalog([folder]).find(text)


@pytest.mark.parametrize(
    ("stem", "own", "kinds"),
    [
        ("control_sd15_soft-edge", {}, ["SoftEdge"]),
        ("mine_line_art", {}, ["Lineart"]),
        ("whatever", {"control_type": "soft edge"}, ["SoftEdge"]),
        ("canny_like", {"control_type": "T2I Adapter"}, ["T2I-Adapter"]),
        ("canny_like", {"control_type": "Segmentation"}, ["Segmentation"]),
    ],
)
def test_types_are_read_as_people_write_them(
    stem: str, own: dict[str, str], kinds: list[str], tmp_path: Path
) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / f"{stem}.safetensors", metadata=own or None)
    catalog = Catalog([tmp_path])
    listed = ["Canny", "Lineart", "Segmentation", "SoftEdge", "T2I-Adapter", "Tile"]
    assert [kind for kind in listed if catalog.for_type(kind)] == kinds
