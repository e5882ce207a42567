"""The widgets of one unit by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gradio.components import Component


@dataclass(frozen=True)
class UnitWidgets:
    """Widgets by the unit field they set, and those that only serve the panel."""

    name: str
    image: Component
    effective_region_mask: Component
    mask_group: Component
    image_group: Component
    upload_group: Component
    preview: Component
    preview_group: Component
    canvas_group: Component
    canvas_width: Component
    canvas_height: Component
    canvas_create: Component
    canvas_cancel: Component
    canvas_open: Component
    send_size: Component
    pose: Component
    close_preview: Component
    picture_note: Component
    drawing_note: Component
    enabled: Component
    low_vram: Component
    pixel_perfect: Component
    allow_preview: Component
    use_region: Component
    independent: Component
    inpaint_crop_input_image: Component
    union_control_type: Component
    control_type: Component
    module: Component
    run: Component
    model: Component
    refresh: Component
    notes: Component
    weight: Component
    guidance_start: Component
    guidance_end: Component
    processor_res: Component
    threshold_a: Component
    threshold_b: Component
    control_mode: Component
    resize_mode: Component
    hr_option: Component
    region: Component
    region_feather: Component
    region_hint: Component
    region_canvas: Component
    region_status: Component
    backdrop: Component
    advanced_weighting: Component
    status: Component
    restore: Component
    offer: Component
    answer: Component
    edition: Component
    target: Component
    single_tab: Any
    batch_tab: Any
    merge_tab: Any
    input_mode: Component
    batch_images: Component
    output_dir: Component
    merge_gallery: Component
    merge_upload: Component
    merge_clear: Component
    merge_images: Component
    loopback: Component
