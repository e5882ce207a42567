"""The server: builds the page, serves it, rebuilds it on request, ends on SIGTERM and Ctrl+C."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from typing import Any

from modules import initialize

DEFAULT_PORT = 7860
DEFAULT_API_PORT = 7861
# A signal handler only leaves a note; the waiting main thread looks for it this often.
_POLL_SECONDS = 0.5


def _port() -> int:
    from modules.shared import cmd_opts

    return cmd_opts.port or (DEFAULT_API_PORT if cmd_opts.nowebui else DEFAULT_PORT)


def _server_name() -> str:
    from modules.shared import cmd_opts

    return "0.0.0.0" if cmd_opts.listen else "127.0.0.1"


def gradio_auth() -> list[tuple[str, str]]:
    """Users and passwords of the page."""
    from modules.shared import cmd_opts

    pairs = [pair.split(":", 1) for pair in (cmd_opts.gradio_auth or "").split(",") if pair]
    return [(user, password) for user, password in pairs]


def create_api(app: Any) -> Any:
    """Add the routes `/sdapi/v1/*` and return the object that answers them."""
    from modules.api.api import Api
    from modules.call_queue import queue_lock

    return Api(app, queue_lock)


def allowed_paths() -> list[str]:
    """Folders whose files the page may ask for."""
    from modules import extensions, paths_internal

    extension_paths = [ext.path for ext in extensions.active()]
    own = [f"{paths_internal.script_path}/{name}" for name in ("javascript", "html", "style.css")]
    return [paths_internal.data_path, *extension_paths, *own]


def launch_page() -> tuple[Any, Any]:
    """Build the page and start serving it; returns `(demo, app)`."""
    from modules import progress, script_callbacks, shared, ui
    from modules.api import middleware

    script_callbacks.before_ui_callback()
    shared.demo = ui.create_ui()
    if not shared.cmd_opts.no_gradio_queue:
        shared.demo.queue(64)
    app, _, _ = shared.demo.launch(
        share=False, server_name=_server_name(), server_port=_port(), debug=False,
        auth=gradio_auth() or None, inbrowser=shared.cmd_opts.autolaunch,
        prevent_thread_lock=True, allowed_paths=allowed_paths(), show_api=False, quiet=True,
        app_kwargs={"docs_url": "/docs", "redoc_url": "/redoc"},
    )  # fmt: skip
    middleware.close_origins(app)
    middleware.setup_middleware(app)
    progress.setup_progress_api(app)
    if shared.cmd_opts.api:
        create_api(app)
    middleware.close_middleware(app)
    script_callbacks.app_started_callback(shared.demo, app)
    return shared.demo, app


def build_api_app() -> tuple[Any, Any]:
    """The application of `--nowebui`, not yet served, and its API object."""
    from fastapi import FastAPI
    from modules import script_callbacks
    from modules.api import middleware

    app = FastAPI()
    middleware.setup_middleware(app)
    api = create_api(app)
    middleware.close_middleware(app)
    script_callbacks.before_ui_callback()
    script_callbacks.app_started_callback(None, app)
    return app, api


def reload_ui() -> None:
    """The first half of `Reload UI`: callbacks, extensions and scripts; packages stay cached."""
    from modules import script_callbacks

    script_callbacks.app_reload_callback()
    script_callbacks.script_unloaded_callback()
    initialize.initialize_rest(reload_script_modules=True)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _configure_signals() -> None:
    def stop(_signal: int, _frame: Any) -> None:
        from modules import shared

        shared.state.stop_from_signal()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)


def api_only(started: float) -> None:
    """Serve the HTTP interface without a page."""
    import uvicorn
    from modules import shared

    app, _ = build_api_app()
    server = uvicorn.Server(
        uvicorn.Config(app, host=_server_name(), port=_port(), log_level="warning")
    )
    server.install_signal_handlers = lambda: None
    threading.Thread(target=server.run, daemon=True).start()
    _say(f"Running on http://{_server_name()}:{_port()} (no page)")
    _say(f"Startup time: {time.perf_counter() - started:.1f}s.")
    while shared.state.wait_for_server_command(timeout=_POLL_SECONDS) not in ("stop", "restart"):
        pass
    server.should_exit = True


def webui(started: float) -> None:
    """Serve the page until told to stop; rebuild it when told to restart."""
    from modules import shared

    while True:
        demo, _ = launch_page()
        _say(f"Startup time: {time.perf_counter() - started:.1f}s.")
        command = None
        while command is None:
            command = shared.state.wait_for_server_command(timeout=_POLL_SECONDS)
        demo.close()
        if command == "stop":
            return
        started = time.perf_counter()
        reload_ui()


def run() -> None:
    """Start, serve, end the process."""
    from modules.shared_cmd_options import cmd_opts

    started = time.perf_counter()
    logging.basicConfig(level=cmd_opts.loglevel.upper())
    # Only the main thread may set handlers, and it only ever waits below.
    initialize.imports()
    initialize.initialize()
    _configure_signals()
    if cmd_opts.nowebui:
        api_only(started)
    else:
        webui(started)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # A generation that is still running in a worker thread must not keep the process alive.
    os._exit(0)
