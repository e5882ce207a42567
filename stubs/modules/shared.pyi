from typing import Any

cmd_opts: Any
config_filename: str
models_path: str
opts: Any
sd_model: Any
state: Any

class OptionInfo:
    def __init__(self, default: Any = ..., label: str = ..., *args: Any, **kwargs: Any) -> None: ...
    def info(self, info: str) -> OptionInfo: ...
    def needs_restart(self) -> OptionInfo: ...
    def needs_reload_ui(self) -> OptionInfo: ...
