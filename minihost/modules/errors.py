"""Reporting of errors that the host survives: everything goes to stderr, nothing is raised."""

from __future__ import annotations

import sys
import textwrap
import traceback

exception_records: list[dict[str, object]] = []
_MAX_RECORDS = 5


def _write(text: str) -> None:
    sys.stderr.write(text.rstrip("\n") + "\n")
    sys.stderr.flush()


def get_exceptions() -> list[dict[str, object]]:
    """Return the latest reported exceptions, newest first."""
    return list(reversed(exception_records))


def record_exception() -> None:
    """Remember the exception being handled, if it is not the one remembered last."""
    _, error, trace = sys.exc_info()
    if error is None:
        return
    if exception_records and exception_records[-1]["exception"] == str(error):
        return
    frames = [
        (f"{f.filename}, line {f.lineno}, {f.name}", f.line) for f in traceback.extract_tb(trace)
    ]
    exception_records.append({"exception": str(error), "traceback": frames})
    del exception_records[:-_MAX_RECORDS]


def report(message: str, *, exc_info: bool = False) -> None:
    """Print a message to stderr, with the traceback of the handled exception if asked."""
    record_exception()
    _write("\n".join(f"*** {line}" for line in message.splitlines()))
    if exc_info:
        _write(textwrap.indent(traceback.format_exc(), "    "))
        _write("---")


def display(e: Exception, task: str, *, full_traceback: bool = False) -> None:
    """Print an exception together with what was being done."""
    record_exception()
    _write(f"{task or 'error'}: {type(e).__name__}")
    trace = traceback.TracebackException.from_exception(e)
    if full_traceback:
        outer = traceback.StackSummary(traceback.extract_stack()[:-2] + trace.stack)
        trace.stack = outer
    _write("".join(trace.format()))
