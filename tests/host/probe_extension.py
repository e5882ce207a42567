"""Writes an extension that records what the host does to it."""

from __future__ import annotations

from pathlib import Path

PACKAGE = '''
"""Records of the probe; stays in sys.modules when the script file is executed again."""
events = []
loads = []
raise_in = set()
mutate = []
'''

SCRIPT = """
import sys
from pathlib import Path

import gradio as gr
from modules import script_callbacks, scripts

import probe_pkg
from probe_pkg import events, raise_in

probe_pkg.loads.append({
    "path": list(sys.path), "name": __name__, "basedir": scripts.basedir(), "file": __file__,
})
sys.path.append("/added/by/the/probe")


def note(name, **details):
    events.append((name, details))
    if name in raise_in:
        raise ValueError(f"probe fails in {name}")


class Probe(scripts.Script):
    def __init__(self):
        self.before_hr = lambda *args: note("instance attribute")

    def title(self):
        return "Probe of the Host"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        note("ui", tab=self.tabname, blocks=id(gr.context.Context.root_block))
        with gr.Accordion("Probe", open=False):
            number = gr.Number(value=1, label="number", elem_id=self.elem_id("number"))
            text = gr.Textbox(value="two", label="text")
            choice = gr.Radio(choices=["a", "b"], value="b", type="index", label="choice")
        self.infotext_fields = [(number, "Probe number")]
        return [number, text, choice]

    def setup(self, p, *args):
        note("setup", args=args)

    def before_process(self, p, *args):
        note("before_process", args=args)

    def process(self, p, *args):
        note("process", args=args)
        p.extra_generation_params["Probe number"] = args[0]
        if probe_pkg.mutate:
            args[0]["image"] = probe_pkg.mutate[0]

    def before_process_batch(self, p, *args, **kwargs):
        note("before_process_batch", args=args, kwargs=sorted(kwargs))

    def after_extra_networks_activate(self, p, *args, **kwargs):
        note("after_extra_networks_activate", kwargs=sorted(kwargs))

    def process_batch(self, p, *args, **kwargs):
        note("process_batch", kwargs=sorted(kwargs))

    def process_before_every_sampling(self, p, *args, **kwargs):
        note("process_before_every_sampling", kwargs=sorted(kwargs))

    def post_sample(self, p, ps, *args):
        note("post_sample", args=args)

    def postprocess_batch(self, p, *args, **kwargs):
        note("postprocess_batch", kwargs=sorted(kwargs))

    def postprocess_batch_list(self, p, pp, *args, **kwargs):
        note("postprocess_batch_list", args=args, kwargs=sorted(kwargs))

    def postprocess_image(self, p, pp, *args):
        note("postprocess_image", args=args)

    def postprocess_maskoverlay(self, p, ppmo, *args):
        note("postprocess_maskoverlay", args=args)

    def postprocess_image_after_composite(self, p, pp, *args):
        note("postprocess_image_after_composite", args=args)

    def postprocess(self, p, processed, *args):
        note("postprocess", args=args)


class Selectable(scripts.Script):
    def title(self):
        return "Probe in the list"

    def ui(self, is_img2img):
        return [gr.Textbox(value="default", label="text")]

    def run(self, p, *args):
        note("run", args=args)
        raise RuntimeError("the script in the list fails")


script_callbacks.on_cfg_denoiser(lambda params: note("cfg_denoiser", rows=params.x.shape[0]))
script_callbacks.on_cfg_denoised(lambda params: note("cfg_denoised"))
script_callbacks.on_cfg_after_cfg(lambda params: note("cfg_after_cfg"))
script_callbacks.on_app_started(lambda demo, app: note("app_started", app=id(app)))
script_callbacks.on_before_ui(lambda: note("before_ui"))
script_callbacks.on_before_reload(lambda: note("before_reload"))
script_callbacks.on_script_unloaded(lambda: note("unloaded first"))
script_callbacks.on_script_unloaded(lambda: note("unloaded second"))
script_callbacks.on_ui_settings(lambda: note("ui_settings"))
script_callbacks.on_before_component(
    lambda component, **kwargs: kwargs.get("elem_id") == "txt2img_generate" and note("button")
)


def unregister():
    script_callbacks.remove_current_script_callbacks()
"""

PRELOAD = """
def preload(parser):
    parser.add_argument("--probe-first", default="first")
    parser.add_argument("--port", default="a flag of the host")
    parser.add_argument("--probe-later", default="later")
"""

INSTALL = """
import os
import launch
print("installed:", launch.is_installed("numpy"), launch.is_installed("no_such_package_at_all"))
print("python path:", os.environ["PYTHONPATH"].split(os.pathsep)[0])
print("run:", launch.run(f'"{launch.python}" -c "print(6 * 7)"', live=False).strip())
assert callable(launch.run_pip)
"""


def write(extensions_dir: Path) -> Path:
    """Write the extension, and one that wants to be loaded before it."""
    folder = extensions_dir / "probe"
    files = {
        "metadata.ini": "[Extension]\nName = Probe-Canonical\n",
        "preload.py": PRELOAD,
        "install.py": INSTALL,
        "style.css": "/* probe */",
        "javascript/probe.js": "// probe",
        "javascript/probe.mjs": "// probe",
        "probe_pkg/__init__.py": PACKAGE,
        "probe_pkg/later.py": "value = 7\n",
        "probe_other/__init__.py": "",
        "scripts/probe.py": SCRIPT,
        "scripts/broken.py": "import a_package_that_is_missing\n",
    }
    early = extensions_dir / "the-early-one"
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf8")
    (early / "scripts").mkdir(parents=True, exist_ok=True)
    (early / "scripts" / "early.py").write_text("import probe_pkg\n", encoding="utf8")
    (early / "metadata.ini").write_text(
        "[Extension]\nName = the-early-one\n[scripts]\nBefore = probe-canonical\n", encoding="utf8"
    )
    return folder
