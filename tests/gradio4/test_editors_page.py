"""The editors of maps on gradio 4: a map is drawn, used, and taken back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from editor_page import open_editor, stroke, sweep, use_map, wait_until_done
from panel_page import UNIT, choose_type, save_shapes, shown_picture, upload

from lib_controlnet.detect.pose import drawing, read_pose

pytestmark = pytest.mark.browser


def test_a_scribble_becomes_the_units_picture(panel: Any, site: Any, tmp_path: Path) -> None:
    picture = save_shapes(tmp_path / "shapes.png", (192, 128))
    upload(panel, picture)
    photograph = shown_picture(panel, f"{UNIT}_input_image img")
    open_editor(panel, "Scribble")
    way = stroke(panel, (20, 40), (100, 90))
    use_map(panel)
    unit = site.generate(panel)[0]
    assert unit.enabled
    assert unit.module == "none"
    drawn = unit.image["image"]
    assert (drawn.shape, set(np.unique(drawn))) == ((128, 128, 3), {0, 255})
    assert ((drawn[..., 0] > 0) != sweep((128, 128), *way, 4)).sum() <= 2
    panel.click("button:text-is('Picture back')")
    panel.locator(".cnet-tools-said:has-text('As it was before')").wait_for()
    assert (site.generate(panel)[0].image["image"] == photograph).all()


def test_a_pose_of_a_file_is_edited_and_used(panel: Any, site: Any) -> None:
    points = np.array([(20 + 5 * i, 30 + 4 * (i % 5), 1.0) for i in range(18)])
    pose = {"people": [{"pose_keypoints_2d": points.ravel().tolist()}]}
    pose |= {"canvas_width": 128, "canvas_height": 128}
    own = f".cnet-unit:has({UNIT}_input_image)"
    choose_type(panel, "OpenPose")
    panel.wait_for_selector(f"{own} .cnet-edit-pose")
    data = {
        "name": "pose.json",
        "mimeType": "application/json",
        "buffer": json.dumps(pose).encode(),
    }
    panel.set_input_files(f"{own} .cnet-upload-pose input", files=[data])
    panel.locator(".cnet-tools-said:has-text('The pose was drawn')").wait_for()
    panel.click(f"{own} .cnet-edit-pose")
    wait_until_done(panel)
    start, end = stroke(panel, tuple(points[17, :2]), (100, 110))
    use_map(panel)
    points[17, :2] += np.subtract(end, start)
    pose["people"][0]["pose_keypoints_2d"] = points.ravel().tolist()
    unit = site.generate(panel)[0]
    assert (unit.enabled, unit.module) == (True, "none")
    assert np.array_equal(unit.image["image"], drawing.draw_pose(read_pose(pose)))


def test_painted_regions_become_the_units_masks(panel: Any, site: Any) -> None:
    open_editor(panel, "Regions of all units")
    divisions = "dialog.cnet-editor label:has(span:text-is('Divide into')) select"
    panel.select_option(divisions, "columns2")
    use_map(panel)
    units = site.generate(panel)[:2]
    assert [unit.region for unit in units] == ["Own mask"] * 2
    masks = [unit.effective_region_mask[..., 0] > 127 for unit in units]
    assert masks[0][:, :64].all()
    assert (masks[0] != masks[1]).all()
    open_editor(panel, "Regions of all units")
    panel.click("dialog.cnet-editor button:text-is('Empty')")
    panel.locator(".cnet-regions-unit:has-text(': 0 %')").first.wait_for()
    panel.click("dialog.cnet-editor button:text-is('Start anew')")
    panel.locator(".cnet-regions-unit:has-text('50 %')").nth(1).wait_for()
