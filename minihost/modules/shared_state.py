"""What the running job has done so far, and what the user asked it to stop."""

from __future__ import annotations

import datetime
import logging
import threading
import time
from typing import Any

log = logging.getLogger(__name__)


class State:
    """Progress, interruption flags and live preview of the running job."""

    def __init__(self) -> None:
        self._clear()
        self.job = ""
        self.job_count = 0
        self.job_timestamp = "0"
        self.sampling_steps = 0
        self.time_start: float | None = None
        self._server_command_signal = threading.Event()
        self._server_command: str | None = None

    def _clear(self) -> None:
        self.skipped = False
        self.interrupted = False
        self.stopping_generation = False
        self.job_no = 0
        self.processing_has_refined_job_count = False
        self.sampling_step = 0
        self.current_latent: Any = None
        self.current_image: Any = None
        self.current_image_sampling_step = 0
        self.id_live_preview = 0
        self.textinfo: str | None = None

    @property
    def server_command(self) -> str | None:
        """`stop`, `restart` or None: what the server's main loop is asked to do."""
        return self._server_command

    @server_command.setter
    def server_command(self, value: str | None) -> None:
        self._server_command = value
        self._server_command_signal.set()

    def wait_for_server_command(self, timeout: float | None = None) -> str | None:
        """Wait until a command is given or `timeout` seconds passed; take it away."""
        self._server_command_signal.wait(timeout)
        self._server_command_signal.clear()
        command, self._server_command = self._server_command, None
        return command

    def stop_from_signal(self) -> None:
        """Ask for the end of server and job; takes no lock, as signal handlers must not."""
        self.interrupted = True
        self._server_command = "stop"

    def request_restart(self) -> None:
        """Interrupt the job and ask the server to rebuild the page."""
        self.interrupt()
        self.server_command = "restart"

    def skip(self) -> None:
        """Leave the current batch."""
        self.skipped = True

    def interrupt(self) -> None:
        """Leave the job."""
        self.interrupted = True

    def stop_generating(self) -> None:
        """Leave the job after the current batch."""
        self.stopping_generation = True

    def nextjob(self) -> None:
        """Count one part of the job as done."""
        from modules.shared import opts

        if opts.show_progress_every_n_steps == -1:
            self.do_set_current_image()
        self.job_no += 1
        self.sampling_step = 0
        self.current_image_sampling_step = 0

    def dict(self) -> dict[str, Any]:
        """The fields that the API answers with."""
        names = (
            "skipped", "interrupted", "stopping_generation", "job", "job_count", "job_timestamp",
            "job_no", "sampling_step", "sampling_steps",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def begin(self, job: str = "(unknown)") -> None:
        """Start a job: everything is reset."""
        from modules import devices

        self._clear()
        self.time_start = time.time()
        self.job_count = -1
        self.job_timestamp = datetime.datetime.now().strftime("%Y%m%d%H%M%S")
        self.job = job
        devices.torch_gc()

    def end(self) -> None:
        """End a job."""
        from modules import devices

        self.job = ""
        self.job_count = 0
        devices.torch_gc()

    def set_current_image(self) -> None:
        """Make a live preview if its turn has come."""
        from modules.shared import opts, parallel_processing_allowed

        if not parallel_processing_allowed:
            return
        every = opts.show_progress_every_n_steps
        since = self.sampling_step - self.current_image_sampling_step
        if every != -1 and since >= every:
            self.do_set_current_image()

    def do_set_current_image(self) -> None:
        """Make a live preview of the current latent; failures only go to the log."""
        if self.current_latent is None:
            return
        from modules import sd_samplers

        try:
            self.assign_current_image(sd_samplers.samples_to_image_grid(self.current_latent))
            self.current_image_sampling_step = self.sampling_step
        except Exception:
            # A preview racing with a model change must never end the generation.
            log.debug("no live preview for this step", exc_info=True)

    def assign_current_image(self, image: Any) -> None:
        """Show a picture as the live preview."""
        self.current_image = image
        self.id_live_preview += 1
