"""What the host executes: our packages take their place, and the script is connected.

Where another ControlNet is enabled, a notice stands there, and nothing of ours is loaded.
"""

from __future__ import annotations

from pathlib import Path

from modules import script_callbacks, script_loading

PACKAGE = Path(__file__).resolve().parents[1] / "lib_controlnet"

script_callbacks.remove_current_script_callbacks()

# By its path: other code may own the package's name.
conflicts = script_loading.load_module(str(PACKAGE / "host" / "page" / "conflicts.py"))
OTHER = conflicts.take_place()
if OTHER is None:
    script = script_loading.load_module(str(PACKAGE / "script.py"))
    Script = script.Script
    Script.__module__ = __name__  # neighbours know the script by the name of this file
    for add, answer in script.connect():  # here, as callbacks are named after the file
        add(answer)
else:
    Script = conflicts.notice(OTHER)
