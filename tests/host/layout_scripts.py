"""Writes an extension whose scripts lay out, count and number what `process_images` gives.

Each layout is what a script of the list does with the pictures of its generations. All check that
these are the pictures they asked for and nothing else.
"""

from __future__ import annotations

from pathlib import Path

NAME = "z-layouts"
TITLE = "layouts of pictures"
COUNTS = "layout_counts"
"""Attribute of `modules.shared` with the numbers of pictures that an always-on script has seen."""

SCRIPT = '''
import copy
from contextlib import closing

import gradio as gr
from modules import images, processing, scripts, shared
from modules.processing import Processed, process_images


def only(result, count):
    """The pictures of a generation, which must be as many as asked for."""
    if len(result.images) != count or len(result.all_seeds) != count:
        raise RuntimeError(f"{len(result.images)} pictures instead of {count}")
    return result.images


def matrix(p):
    p.prompt = [f"{p.prompt}, {word}" for word in ("red", "green", "blue", "white")]
    p.seed, p.subseed = [p.seed] * 4, [p.subseed] * 4
    p.n_iter, p.do_not_save_grid = 4, True
    result = process_images(p)
    result.images.insert(0, images.image_grid(only(result, 4), rows=2))
    result.infotexts.insert(0, result.infotexts[0])
    result.index_of_first_image = 1
    return result


def lines(p):
    p.do_not_save_grid = True
    pictures, texts, prompts = [], [], []
    for line in ("red", "green", "blue"):
        job = copy.copy(p)
        job.prompt = line
        result = process_images(job)
        pictures += only(result, job.n_iter * job.batch_size)
        texts += result.infotexts
        prompts += result.all_prompts
    return Processed(p, pictures, p.seed, "", all_prompts=prompts, infotexts=texts)


def feedback(p):
    pictures = []
    for number in range(3):
        result = process_images(p)
        pictures.append(only(result, 1)[0])
        p.seed = result.seed + 1
    return Processed(p, pictures, p.seed, result.info)


def cells(p):
    template = None
    for number in range(2):
        job = copy.copy(p)
        job.cfg_scale = 2.0 + number
        result = process_images(job)
        if template is None:
            template = copy.copy(result)
            template.images, template.infotexts = [], []
        template.images.append(result.images[0])
        template.infotexts.append(result.infotexts[0])
    template.images = [images.image_grid(template.images, rows=1)]
    template.infotexts.insert(0, template.infotexts[0])
    template.index_of_first_image = 1
    return template


def tiles(p):
    places, work = ((0, 0), (p.width, 0)), []
    for _ in places:
        work += process_images(p).images
    whole = processing.Image.new("RGB", (2 * p.width, p.height))
    for place, picture in zip(places, work, strict=True):
        whole.paste(picture, place)
    return Processed(p, [whole], p.seed, "")


def own_jobs(p):
    pictures = []
    for _ in range(2):
        with closing(processing.StableDiffusionProcessingTxt2Img(
            prompt=p.prompt, seed=p.seed, steps=p.steps, width=p.width, height=p.height,
            sampler_name=p.sampler_name, do_not_save_samples=True, do_not_save_grid=True,
        )) as job:
            job.scripts, job.script_args = p.scripts, p.script_args
            result = process_images(job)
        pictures += only(result, 1)
    return Processed(p, pictures, p.seed, "")


def nothing(_p):
    return None


LAYOUTS = (matrix, lines, feedback, cells, tiles, own_jobs, nothing)


class Layouts(scripts.Script):
    def title(self):
        return "Layouts of pictures"

    def ui(self, is_img2img):
        return [gr.Textbox(label="layout", value="")]

    def run(self, p, name):
        return next(layout for layout in LAYOUTS if layout.__name__ == name)(p)


class Count(scripts.Script):
    def title(self):
        return "Count pictures"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def postprocess(self, p, processed, *args):
        shared.layout_counts.append(len(processed.images))
'''


def write_extension(extensions_dir: Path) -> Path:
    """Write the extension and return its folder; it is loaded after ControlNet."""
    file = extensions_dir / NAME / "scripts" / "layouts.py"
    file.parent.mkdir(parents=True)
    file.write_text(SCRIPT, encoding="utf8")
    return extensions_dir / NAME
