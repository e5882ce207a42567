"""Which task is running, waiting or finished, and the route that the page polls."""

from __future__ import annotations

import base64
import io
import secrets
import string
import time
from collections import OrderedDict
from typing import Any, Optional

from modules import shared
from pydantic import BaseModel, Field

current_task: str | None = None
pending_tasks: OrderedDict[str, float] = OrderedDict()
finished_tasks: list[str] = []
_KEEP_FINISHED = 16


def start_task(id_task: str | None) -> None:
    """A task got its turn."""
    global current_task  # noqa: PLW0603 (a name that extensions read)
    current_task = id_task
    pending_tasks.pop(id_task, None)


def finish_task(id_task: str | None) -> None:
    """A task ended."""
    global current_task  # noqa: PLW0603 (a name that extensions read)
    if current_task == id_task:
        current_task = None
    finished_tasks.append(id_task)
    del finished_tasks[:-_KEEP_FINISHED]


def create_task_id(task_type: str) -> str:
    """Return `task(<type>-<random>)`."""
    letters = string.ascii_uppercase + string.digits
    return f"task({task_type}-{''.join(secrets.choice(letters) for _ in range(7))})"


def add_task_to_queue(id_task: str) -> None:
    """A task waits for its turn."""
    pending_tasks[id_task] = time.time()


# pydantic evaluates these annotations at run time, on Python 3.10 with version 1 as well.
class ProgressRequest(BaseModel):
    """Question of the page about one task."""

    id_task: Optional[str] = Field(default=None, title="Task ID")  # noqa: UP045
    id_live_preview: int = Field(default=-1, title="ID of the last received live preview")
    live_preview: bool = Field(default=True, title="Include live preview")


class ProgressResponse(BaseModel):
    """State of one task."""

    active: bool = Field(title="Whether the task is being worked on right now")
    queued: bool = Field(title="Whether the task is in queue")
    completed: bool = Field(title="Whether the task has already finished")
    progress: Optional[float] = Field(default=None, title="Progress, 0 to 1")  # noqa: UP045
    eta: Optional[float] = Field(default=None, title="ETA in seconds")  # noqa: UP045
    live_preview: Optional[str] = Field(default=None, title="Preview, data URL")  # noqa: UP045
    id_live_preview: Optional[int] = Field(default=None, title="Preview ID")  # noqa: UP045
    textinfo: Optional[str] = Field(default=None, title="Info text")  # noqa: UP045


def setup_progress_api(app: Any) -> None:
    """Add the page's routes."""
    app.add_api_route("/internal/ping", lambda: {}, methods=["GET"])
    app.add_api_route(
        "/internal/progress", progressapi, methods=["POST"], response_model=ProgressResponse
    )


def job_progress() -> float:
    """Done share of the running job, 0 to 1."""
    state = shared.state
    done = 0.0
    if state.job_count > 0:
        done += state.job_no / state.job_count
    if state.sampling_steps > 0 and state.job_count > 0:
        done += 1 / state.job_count * state.sampling_step / state.sampling_steps
    return min(done, 1.0)


def progressapi(req: ProgressRequest) -> ProgressResponse:
    """Answer the page's question about a task."""
    active = req.id_task == current_task
    queued = req.id_task in pending_tasks
    completed = req.id_task in finished_tasks
    if not active:
        textinfo = "Waiting..."
        if queued:
            position = sorted(pending_tasks, key=pending_tasks.get).index(req.id_task)
            textinfo = f"In queue: {position + 1}/{len(pending_tasks)}"
        return ProgressResponse(
            active=active, queued=queued, completed=completed, id_live_preview=-1, textinfo=textinfo
        )
    done = job_progress()
    eta = None
    if done > 0 and shared.state.time_start is not None:
        elapsed = time.time() - shared.state.time_start
        eta = elapsed / done - elapsed
    live_preview, id_live_preview = _live_preview(req)
    return ProgressResponse(
        active=active, queued=queued, completed=completed, progress=done, eta=eta,
        live_preview=live_preview, id_live_preview=id_live_preview, textinfo=shared.state.textinfo,
    )  # fmt: skip


def _live_preview(req: ProgressRequest) -> tuple[str | None, int]:
    if not req.live_preview:
        return None, req.id_live_preview
    shared.state.set_current_image()
    image = shared.state.current_image
    if shared.state.id_live_preview == req.id_live_preview or image is None:
        return None, req.id_live_preview
    buffered = io.BytesIO()
    image.save(buffered, format="png")
    text = base64.b64encode(buffered.getvalue()).decode("ascii")
    return f"data:image/png;base64,{text}", shared.state.id_live_preview
