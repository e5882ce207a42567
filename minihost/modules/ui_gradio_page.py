"""Head of the page: scripts and styles of host and extensions, nothing from outside."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import gradio as gr
from modules import localization, patches, paths_internal, scripts, util

# The template of gradio asks other servers for a script and two style sheets.
_OUTSIDE = re.compile(
    rb"<(?:script|link)\b[^>]*\b(?:src|href)=\"https?://[^\"]*\"[^>]*>(?:\s*</script>)?"
)


@functools.lru_cache(maxsize=1)
def theme() -> gr.themes.Base:
    """The host's theme: gradio's default with the fonts of the system."""
    plain = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return gr.themes.Default(**plain)


def webpath(filename: str) -> str:
    """Address of a file: below the working directory relative, else absolute, with its time."""
    path = util.truncate_path(filename)
    return f"file={path}?{Path(filename).stat().st_mtime}"


def javascript_html() -> str:
    """Script tags: host first, then extensions, classic before modules."""
    own = Path(paths_internal.script_path) / "javascript"
    first = own / "host.js"
    files = [first, *(x for x in sorted(own.glob("*.js")) if x != first)]
    tags = [_script_tag(str(path), "text/javascript") for path in files]
    classic = scripts.list_scripts("javascript", ".js", include_extensions=True)
    own_paths = {str(path) for path in files}
    tags += [_script_tag(x.path, "text/javascript") for x in classic if x.path not in own_paths]
    tags += [_script_tag(x.path, "module") for x in scripts.list_scripts("javascript", ".mjs")]
    return "\n".join(tags) + "\n"


def _script_tag(path: str, kind: str) -> str:
    return f'<script type="{kind}" src="{webpath(path)}"></script>'


def css_html() -> str:
    """Style sheets: host first, then each extension's root `style.css`, then the user's."""
    files = scripts.list_files_with_name("style.css")
    user = Path(paths_internal.data_path) / "user.css"
    files += [str(user)] if user.is_file() else []
    return "".join(
        f'<link rel="stylesheet" property="stylesheet" href="{webpath(path)}">' for path in files
    )


def install() -> None:
    """Put the tags into the page that gradio serves, and take its outside ones out."""
    js, css = javascript_html().encode(), css_html().encode()
    key = __name__
    templates = gr.routes.templates
    original = patches.original(key, templates, "TemplateResponse")
    if original is not None:
        patches.undo(key, templates, "TemplateResponse")
    else:
        original = templates.TemplateResponse

    def template_response(*args: Any, **kwargs: Any) -> Any:
        res = original(*args, **kwargs)
        body = _OUTSIDE.sub(b"", res.body)
        head = localization.script_tag().encode() + js
        body = body.replace(b"</head>", head + b"</head>").replace(b"</body>", css + b"</body>")
        res.body = body
        res.init_headers()
        return res

    patches.patch(key, templates, "TemplateResponse", template_response)
