"""Parses the command line after giving every extension's `preload.py` the parser."""

from __future__ import annotations

from modules import script_loading
from modules.cmd_args import parser
from modules.paths_internal import assets_path

script_loading.preload_all(parser)

# Control models that come with this repository are found unless the user names a folder.
if "--controlnet-dir" in parser._option_string_actions:
    parser.set_defaults(controlnet_dir=assets_path)

cmd_opts = parser.parse_args()
cmd_opts.disable_extension_access = cmd_opts.disable_extension_access or cmd_opts.listen
