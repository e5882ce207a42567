"""Command line of the embedded host: the WebUI's names and meanings, as far as they apply here."""

from __future__ import annotations

import argparse
from pathlib import Path

from modules import paths_internal

parser = argparse.ArgumentParser(
    prog="launch.py", description="Small host for trying and testing WebUI extensions."
)

_data = Path(paths_internal.data_path)


def _flag(name: str, text: str) -> None:
    parser.add_argument(name, action="store_true", help=text)


def _value(name: str, default: object, text: str, kind: type = str) -> None:
    parser.add_argument(name, type=kind, default=default, help=text)


_flag("--skip-install", "do not run the extensions' install.py")
_flag("--skip-prepare-environment", "do not run the extensions' install.py")
_flag("--skip-torch-cuda-test", "accepted for compatibility; this host never demands CUDA")
_value("--data-dir", paths_internal.data_path, "folder of settings, models, extensions, outputs")
_value("--models-dir", None, "folder of models; default: models in the data folder")
_value("--ckpt", None, "checkpoint to load first")
_value("--ckpt-dir", None, "further folder with checkpoints")
_value("--vae-dir", None, "further folder with VAE files")
_value("--vae-path", None, "VAE to use with every checkpoint")
parser.add_argument(
    "--extension-dir",
    action="append",
    default=None,
    help="load this folder as an extension, may be repeated; default: this repository; "
    "'none': no folder besides those in the data folder",
)
_value("--config", None, "YAML of the default architecture")
_flag("--api", "serve /sdapi/v1")
_flag("--nowebui", "serve only /sdapi/v1")
_flag("--api-log", "log every API request")
_value("--api-auth", None, "user:password[,user:password] for /sdapi/v1")
_flag("--api-server-stop", "serve /sdapi/v1/server-stop and its sisters")
_value("--port", None, "TCP port; default 7860 with page, 7861 without", int)
_flag("--listen", "bind to all interfaces")
_value("--server-name", None, "interface to bind to")
_value("--subpath", None, "path under which a proxy serves this host")
_flag("--share", "not offered by this host; marks the server as shared")
_value("--ngrok", None, "not offered by this host; marks the server as shared")
_flag("--enable-insecure-extension-access", "accepted for compatibility")
_flag("--disable-extension-access", "hide the extension list")
_value("--gradio-auth", None, "user:password[,user:password] for the page")
_value("--gradio-auth-path", None, "file with user:password lines for the page")
parser.add_argument("--gradio-allowed-path", action="append", default=[str(_data)])
_flag("--autolaunch", "open the page in the default browser")
_value("--theme", None, "dark or light")
_flag("--freeze-settings", "no setting can be changed")
_value("--freeze-settings-in-sections", None, "comma-separated section ids that cannot be changed")
_value("--freeze-specific-settings", None, "comma-separated settings that cannot be changed")
_value("--ui-settings-file", str(_data / "config.json"), "file of the settings")
_value("--ui-config-file", str(_data / "ui-config.json"), "file of the page's defaults")
_flag("--hide-ui-dir-config", "hide folder inputs from the page")
_flag("--ui-debug-mode", "do not load a checkpoint")
_value("--styles-file", str(_data / "styles.csv"), "file of the prompt styles")
_flag("--disable-all-extensions", "load no extension")
_flag("--disable-extra-extensions", "load only built-in extensions")
_flag("--update-all-extensions", "accepted for compatibility; this host updates nothing")
_flag("--no-half", "keep models in 32-bit floats")
_flag("--no-half-vae", "keep the VAE in 32-bit floats")
_flag("--upcast-sampling", "sample in 32-bit floats")
parser.add_argument("--precision", choices=["full", "half", "autocast"], default="autocast")
_flag("--medvram", "move model parts to the device only while they work")
_flag("--medvram-sdxl", "--medvram for SDXL only")
_flag("--lowvram", "move model blocks to the device only while they work")
_flag("--lowram", "load checkpoints to the device directly")
parser.add_argument("--use-cpu", nargs="+", type=str.lower, default=[])
_value("--device-id", None, "CUDA device")
_flag("--disable-safe-unpickle", "leave torch.load as it is")
_flag("--disable-nan-check", "do not test pictures for NaN")
_flag("--disable-model-loading-ram-optimization", "accepted for compatibility")
_flag("--no-hashing", "do not compute SHA-256 of checkpoints")
_flag("--xformers", "allow importing xformers")
_flag("--opt-sdp-attention", "accepted for compatibility; always on")
_flag("--opt-sdp-no-mem-attention", "accepted for compatibility")
_flag("--opt-split-attention", "accepted for compatibility")
_flag("--opt-channelslast", "channels-last memory format")
_flag("--always-batch-cond-uncond", "accepted for compatibility; it is the default here")
_flag("--do-not-download-clip", "accepted for compatibility; this host downloads nothing")
_flag("--no-download-sd-model", "accepted for compatibility; this host downloads nothing")
_flag("--no-gradio-queue", "serve the page's events as plain requests")
_flag("--no-progressbar-hiding", "accepted for compatibility")
_flag("--disable-console-progressbars", "no progress bars on the terminal")
_flag("--enable-console-prompts", "print prompts")
_flag("--no-prompt-history", "do not write params.txt")
_flag("--administrator", "accepted for compatibility")
_value("--timeout-keep-alive", 30, "seconds that idle connections are kept", int)
_value("--cors-allow-origins", None, "comma-separated origins")
_value("--cors-allow-origins-regex", None, "regular expression of origins")
_value("--loglevel", "WARNING", "level of Python logging")
