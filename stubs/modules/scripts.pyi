from typing import Any, NamedTuple

AlwaysVisible: object

class Script:
    args_from: int | None
    args_to: int | None
    infotext_fields: list[Any] | None
    is_img2img: bool
    is_txt2img: bool
    def title(self) -> str: ...
    def ui(self, is_img2img: bool) -> list[Any] | None: ...
    def show(self, is_img2img: bool) -> object: ...

class ScriptClassData(NamedTuple):
    script_class: type[Script]
    path: str
    basedir: str
    module: Any

class ScriptRunner:
    alwayson_scripts: list[Any]
    scripts: list[Any]

scripts_data: list[ScriptClassData]
scripts_img2img: ScriptRunner
scripts_txt2img: ScriptRunner

def basedir() -> str: ...
