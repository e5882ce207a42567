"""Command line of the embedded host: the WebUI's names and meanings, as far as they apply here."""

from __future__ import annotations

import argparse
from pathlib import Path

from modules import paths_internal

parser = argparse.ArgumentParser(
    prog="launch.py", description="Small host for trying and testing WebUI extensions."
)


def _flag(name: str, text: str) -> None:
    parser.add_argument(name, action="store_true", help=text)


def _value(name: str, default: object, text: str, kind: type = str) -> None:
    parser.add_argument(name, type=kind, default=default, help=text)


_data = Path(paths_internal.data_path)
parser.add_argument(
    "--like",
    choices=["a1111", "forge", "reforge"],
    default="a1111",
    help="the WebUI whose ways of loading and sampling a checkpoint it has, see miniforge",
)
_flag("--skip-install", "do not run the extensions' install.py")
_flag("--skip-torch-cuda-test", "accepted for compatibility; this host never demands CUDA")
_value("--data-dir", str(_data), "folder of settings, models, extensions, outputs")
_value("--models-dir", None, "folder of models; default: models in the data folder")
_value("--ckpt", None, "checkpoint to load first")
_value("--ckpt-dir", None, "further folder with checkpoints")
parser.add_argument(
    "--extension-dir",
    action="append",
    default=None,
    help="load this folder as an extension, may be repeated; default: this repository; "
    "'none': no folder besides those in the data folder",
)
_flag("--api", "serve /sdapi/v1")
_flag("--nowebui", "serve only /sdapi/v1")
_value("--api-auth", None, "user:password[,user:password] for /sdapi/v1")
_value("--port", None, "TCP port; default 7860 with page, 7861 without", int)
_flag("--listen", "bind to all interfaces; the extension list is hidden then")
_flag("--disable-extension-access", "hide the extension list")
_value("--gradio-auth", None, "user:password[,user:password] for the page")
_flag("--autolaunch", "open the page in the default browser")
_value("--ui-config-file", str(_data / "ui-config.json"), "file of the page's defaults")
_flag("--hide-ui-dir-config", "hide folder inputs from the page")
_flag("--no-half", "keep models in 32-bit floats")
_flag("--no-half-vae", "keep the VAE in 32-bit floats")
parser.add_argument("--precision", choices=["full", "half", "autocast"], default="autocast")
_flag("--medvram", "move model parts to the device only while they work")
_flag("--medvram-sdxl", "--medvram for SDXL only")
_flag("--lowvram", "move model blocks to the device only while they work")
parser.add_argument("--use-cpu", nargs="+", type=str.lower, default=[])
_flag("--xformers", "allow importing xformers")
_flag("--no-gradio-queue", "serve the page's events as plain requests")
_flag("--disable-console-progressbars", "no progress bars on the terminal")
_value("--loglevel", "WARNING", "level of Python logging")
