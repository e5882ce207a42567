"""Parses the command line after giving every extension's `preload.py` the parser."""

from __future__ import annotations

import os

from modules import script_loading
from modules.cmd_args import parser
from modules.paths_internal import assets_path

script_loading.preload_all(parser)

# Control models that come with this repository are found unless the user names a folder.
if "--controlnet-dir" in parser._option_string_actions:
    parser.set_defaults(controlnet_dir=assets_path)

if os.environ.get("IGNORE_CMD_ARGS_ERRORS") is None:
    cmd_opts = parser.parse_args()
else:
    cmd_opts, _ = parser.parse_known_args()

cmd_opts.webui_is_non_local = any(
    [cmd_opts.share, cmd_opts.listen, cmd_opts.ngrok, cmd_opts.server_name]
)
cmd_opts.disable_extension_access = cmd_opts.disable_extension_access or (
    cmd_opts.webui_is_non_local and not cmd_opts.enable_insecure_extension_access
)
