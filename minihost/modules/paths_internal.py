"""Folders of the embedded host, known before anything heavy is imported."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

modules_path = str(Path(__file__).resolve().parent)
script_path = str(Path(modules_path).parent)
repository_path = str(Path(script_path).parent)
assets_path = str(Path(script_path) / "assets")

sys.argv += shlex.split(os.environ.get("COMMANDLINE_ARGS", ""))

parser_pre = argparse.ArgumentParser(add_help=False)
parser_pre.add_argument("--data-dir", type=str, default=str(Path(script_path) / "data"))
parser_pre.add_argument("--models-dir", type=str, default=None)
cmd_opts_pre = parser_pre.parse_known_args(sys.argv[1:])[0]

data_path = str(Path(cmd_opts_pre.data_dir).absolute())
models_path = str(Path(cmd_opts_pre.models_dir or Path(data_path) / "models").absolute())
extensions_dir = str(Path(data_path) / "extensions")
default_output_dir = str(Path(data_path) / "outputs")
cwd = str(Path.cwd())

# The name under which this repository appears in the extension list.
repository_extension_name = "sd-webui-controlnet"
