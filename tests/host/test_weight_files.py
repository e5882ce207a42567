"""Weight files and networks of preprocessors in a running host."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import embedded
import numpy as np
import pytest
import torch
from controls import first, request, unit
from fake_device import FakeDevice
from hub_server import Hub, local_hub
from published_rows import CONTENT, REPOSITORY, published_rows, row, wait_for
from safetensors.torch import save
from torch import nn
from weights import weights_folder

from annotator.networks import CACHE, Place, lend
from annotator.registry import Detector
from annotator.store import DOWNLOADS, STORE
from annotator.weights import WeightFile
from lib_controlnet.detect import preprocess
from lib_controlnet.detect.downloadable import order_published
from lib_controlnet.engine.residency import Resident
from lib_controlnet.interop.unit import ControlNetUnit

TENSORS = save({"weight": torch.full((1, 1, 1, 1), -1.0), "bias": torch.full((1,), 255.0)})
FILE = WeightFile(
    *("Negative.safetensors", "negative", len(TENSORS), "MIT"),
    sha256=hashlib.sha256(TENSORS).hexdigest(),
    repo="someone/Negative",
)


def build(state: dict[str, torch.Tensor]) -> nn.Module:
    network = nn.Conv2d(1, 1, 1)
    network.load_state_dict(state)
    return network


class Negative(Detector):
    """A network that turns a picture into its negative."""

    name = "negative"
    tags = ("Negative",)
    weights = (FILE,)

    def detect(self, image: np.ndarray) -> np.ndarray:
        with lend(FILE, build) as network:
            grey = torch.from_numpy(image[:, :, 0].astype(np.float32))
            return network(grey[None, None])[0, 0].round().clamp(0, 255).byte().numpy()


@pytest.fixture
def negative(webui: Any, tmp_path: Path) -> Iterator[Path]:
    """A preprocessor whose file is not there, and the folder where it belongs."""
    preprocess.registry.add(Negative())
    with weights_folder(tmp_path / "weights") as folder:
        yield folder
    preprocess.registry.remove("negative")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no cache"))
    with local_hub() as server:
        server.publish(FILE.repo, FILE.name, TENSORS)
        yield server


def set_up() -> None:
    from lib_controlnet.host import annotators
    from lib_controlnet.host.runtime import runtime

    annotators.set_up(runtime().host)


@pytest.fixture
def set_options(host: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Sets options for one test and has the preprocessors look at them."""
    from modules import shared

    before = STORE.roots

    def change(**options: Any) -> None:
        for key, value in options.items():
            monkeypatch.setitem(shared.opts.data, key, value)
        set_up()

    yield change
    STORE.roots = before


# --- folders -------------------------------------------------------------------------------


def test_folder_is_that_of_the_setting_then_the_flag_then_our_own(
    set_options: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modules import paths, shared

    set_options(control_net_modules_path="")
    assert STORE.roots[0] == DOWNLOADS
    monkeypatch.setattr(
        shared.cmd_opts, "controlnet_annotator_models_path", str(tmp_path), raising=False
    )
    set_options(control_net_modules_path="")
    assert STORE.roots[0] == tmp_path
    set_options(control_net_modules_path="below/data")
    assert STORE.roots[0] == Path(paths.data_path) / "below/data"


def test_folder_of_forge_is_searched_in_any_letter_case(set_options: Any) -> None:
    from modules import paths

    forge = Path(paths.models_path) / "controlnetpreprocessor"
    forge.mkdir()
    try:
        set_options(control_net_modules_path="")
        assert forge.resolve() in [root.resolve() for root in STORE.roots[1:]]
    finally:
        forge.rmdir()


def test_start_names_the_folder_in_words_that_users_quote(
    host: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    host.reload_ui()
    said = capsys.readouterr().out
    assert f" - ControlNet - INFO - ControlNet preprocessor location: {STORE.roots[0]}\n" in said


# --- downloads -----------------------------------------------------------------------------


def test_settings_decide_about_downloads_at_once(
    set_options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    set_options(controlnet_offline=False, controlnet_hub_mirror="")
    assert not STORE.options().is_offline
    assert STORE.options().endpoint == "https://huggingface.co"
    set_options(controlnet_offline=True, controlnet_hub_mirror=" http://mirror ")
    assert STORE.options().is_offline
    assert STORE.options().endpoint == "http://mirror"


def test_progress_is_shown_and_only_a_running_job_can_be_stopped(
    set_options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modules import shared

    set_options()
    options = STORE.options()
    options.report("Downloading")
    assert shared.state.textinfo == "Downloading"
    options.report(None)
    assert shared.state.textinfo is None
    monkeypatch.setattr(shared.state, "interrupted", True)
    monkeypatch.setattr(shared.state, "job", "")
    assert not options.interrupted(), "a job that was stopped long ago stops a preview"
    monkeypatch.setattr(shared.state, "job", "task")
    assert options.interrupted()


def test_preview_is_told_its_own_downloads_and_no_job_s_bar(
    host: Any, negative: Path, hub: Hub, set_options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modules import shared

    from lib_controlnet.host.runtime import runtime
    from lib_controlnet.ui.preview import on_run, target_request

    set_options(controlnet_hub_mirror=hub.url)
    STORE.roots = (negative,)
    monkeypatch.setattr(shared.state, "textinfo", "of another job")
    told: list[tuple[str, float]] = []
    made = ControlNetUnit(module="negative", image=np.zeros((8, 8, 3), np.uint8))
    answer = on_run(
        made,
        target_request({"width": 64, "height": 64}),
        runtime(),
        lambda *all_of_it: told.append(all_of_it),
    )
    assert answer["picture"], answer["said"]
    assert told[0] == (f"Downloading {FILE.name}: 0 of 0 MB", 1.0)
    assert told[-1][0] == "", "it is over"
    assert shared.state.textinfo == "of another job"


def test_generation_whose_file_is_missing_says_what_to_put_where(
    webui: Any, negative: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = first(webui.txt2img(**request()))
    with pytest.raises(embedded.ApiError) as caught:
        webui.txt2img(**request(unit(module="negative")))
    assert caught.value.status == 422
    sentence = (
        f"preprocessor negative cannot run: the file {FILE.name} ({FILE.size} bytes) is missing "
        "and cannot be downloaded: downloads are switched off; get it from "
        f"https://huggingface.co/someone/Negative/resolve/main/{FILE.name} and put it into "
    )
    said, _, folder = caught.value.body["detail"].partition(" put it into ")
    assert f"{said} put it into " == f"unit 0: {sentence}"
    # Clients read no absolute folder, but the end of it.
    assert str(negative / "negative").endswith(folder)
    assert not folder.startswith("/")
    assert np.array_equal(first(webui.txt2img(**request())), before)
    answer = webui.post(
        "/controlnet/detect",
        {"controlnet_module": "negative", "controlnet_input_images": [unit()["image"]]},
    )
    assert (answer.status_code, answer.json()["detail"]) == (422, f"{sentence}{folder}")


def test_generation_downloads_what_it_needs_and_later_ones_reuse_it(
    webui: Any, negative: Path, hub: Hub, set_options: Any
) -> None:
    from modules import shared

    set_options(controlnet_hub_mirror=hub.url)
    STORE.roots = (negative,)
    inverted = first(webui.txt2img(**request(unit(module="negative", processor_res=64))))
    assert (negative / "negative" / FILE.name).read_bytes() == TENSORS
    assert shared.state.textinfo is None
    again = first(webui.txt2img(**request(unit(module="negative", processor_res=64))))
    assert np.array_equal(again, inverted)
    assert not np.array_equal(first(webui.txt2img(**request(unit()))), inverted)
    assert len(hub.asked) == 1


def test_damaged_file_stops_the_generation_with_a_sentence(webui: Any, negative: Path) -> None:
    (negative / FILE.name).write_bytes(b"\x10" * 64)
    with pytest.raises(embedded.ApiError, match="is damaged or no Negative.safetensors"):
        webui.txt2img(**request(unit(module="negative")))


# --- networks ------------------------------------------------------------------------------


def test_networks_run_where_the_host_says(
    set_options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modules import devices, shared

    set_options()
    monkeypatch.setattr(devices, "dtype", torch.float16)
    assert CACHE.choose_place() == Place("cpu"), "half precision on the CPU"
    monkeypatch.setattr(devices, "get_device_for", lambda _task: torch.device("cuda:0"))
    assert CACHE.choose_place() == Place("cuda:0", half=True)
    monkeypatch.setattr(shared.cmd_opts, "no_half_controlnet", True, raising=False)
    assert CACHE.choose_place() == Place("cuda:0")
    set_options(controlnet_onnx_engine="openvino")
    assert CACHE.choose_place() == Place("cuda:0", onnx="OpenVINO")


@pytest.mark.parametrize("flag", ["", "lowvram", "medvram"])
def test_networks_leave_the_device_before_sampling(
    webui: Any, negative: Path, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    from modules import shared

    (negative / FILE.name).write_bytes(TENSORS)
    if flag:
        monkeypatch.setattr(shared.cmd_opts, flag, True, raising=False)
    device = FakeDevice()
    monkeypatch.setattr(CACHE, "choose_place", lambda: Place(str(FakeDevice.device)))
    monkeypatch.setattr(CACHE, "make_resident", lambda network: Resident(network, device.copy))
    CACHE.clear()
    webui.txt2img(**request(unit(module="negative", processor_res=96)))
    assert (device.copied, device.held, len(CACHE)) == (8, 0, 0 if flag else 1)


def test_a_model_that_was_ordered_comes_although_the_page_is_built_anew(
    host: Any, hub: Hub, set_options: Any, tmp_path: Path
) -> None:
    from lib_controlnet.host.runtime import runtime

    set_options(controlnet_hub_mirror=hub.url)
    name = "control_v11p_sd15_canny_ordered.safetensors"
    with published_rows(tmp_path, row(name, CONTENT)):
        hub.publish(REPOSITORY, name, CONTENT)
        hub.cuts = [100_000]
        first = runtime()
        target = first.catalog.folders[0] / name
        first.downloads.start(order_published(name, first.catalog.folders))
        wait_for(lambda: hub.sent > 0)
        host.reload_ui()
        try:
            second = runtime()
            assert second is not first
            wait_for(target.is_file, second.downloads.describe)
            wait_for(lambda: second.downloads.describe()[0]["state"] == "done")
            assert target.read_bytes() == CONTENT
            assert any(entry.path == target for entry in second.catalog.files.values())
            assert hub.sent < len(CONTENT) + 100_000, "it was taken up"
        finally:
            target.unlink(missing_ok=True)
            runtime().refresh_models()
