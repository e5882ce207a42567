"""The tab Extensions: a list."""

from __future__ import annotations

import html

import gradio as gr
from modules import extensions


def extension_table() -> str:
    """The extensions as an HTML table."""
    rows = [
        f"<tr><td>{'on' if ext.enabled else 'off'}</td><td>{html.escape(ext.name)}</td>"
        f"<td>{html.escape(ext.path)}</td></tr>"
        for ext in extensions.extensions
    ]
    head = "<thead><tr><th>Enabled</th><th>Extension</th><th>Folder</th></tr></thead>"
    return f"<table id='extensions'>{head}<tbody>{''.join(rows)}</tbody></table>"


def create_ui() -> gr.Blocks:
    """Build the tab."""
    note = (
        "<p>Extensions lie in the folder <code>extensions</code> of the data folder; "
        "this host installs and updates none.</p>"
    )
    with (
        gr.Blocks(analytics_enabled=False) as interface,
        gr.Tabs(elem_id="tabs_extensions"),
        gr.TabItem("Installed", id="installed"),
    ):
        gr.HTML(extension_table)
        gr.HTML(note)
    return interface
