"""The WebUI of the matrix, with the probe and the derived checkpoints, and the summary."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sdxl_models
from matrix import cases, prepare
from servers import Server, embedded_host

SERVER: pytest.StashKey[Server] = pytest.StashKey()
TEST = "test_case_of_the_matrix"


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, tmp_path_factory) -> Iterator[Server]:
    """A prepared embedded host, or the prepared WebUI at --webui-url."""
    address = request.config.getoption("--webui-url")
    if address:
        yield Server(address.rstrip("/"))
        return
    data: Path = tmp_path_factory.mktemp("matrix")
    prepare.put(data, with_models=False)
    shape = ("--like", request.config.getoption("--like"))
    with embedded_host(data, "--nowebui", *shape) as server:
        request.config.stash[SERVER] = server
        yield server


@pytest.fixture(scope="session")
def member(server: Server) -> str:
    """What the WebUI is, see `members`."""
    return server.get("/matrix-probe/member")


@pytest.fixture(scope="session")
def names(request: pytest.FixtureRequest, server: Server) -> dict[str, str]:
    """SDXL models by the names that the cases have for them; only those that the WebUI has."""
    found = {name: name for name in sdxl_models.NAMES}
    if not request.config.getoption("--webui-url"):
        return found
    found[sdxl_models.BASE] = request.config.getoption("--sdxl-checkpoint")
    has = {model["model_name"] for model in server.get("/sdapi/v1/sd-models")}
    found = {name: given for name, given in found.items() if given in has}
    return {**found, sdxl_models.CONTROL: request.config.getoption("--sdxl-control")}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """Show the end of the server's log under a failed test."""
    outcome = yield
    report = outcome.get_result()
    server = item.config.stash.get(SERVER, None)
    if report.failed and server is not None:
        report.sections.append(("log of the embedded host", server.log()[-3000:]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How much of the matrix ran, passed, and which share of all pairs the passed cases cover."""
    every = [*cases.matrix()[0], *cases.sdxl_matrix()[0]]
    by_label = {cases.label(case): case for case in every}
    counts = {}
    for outcome in ("passed", "failed"):
        reports = [r for r in terminalreporter.getreports(outcome) if TEST in r.nodeid]
        labels = [report.nodeid.partition("[")[2].removesuffix("]") for report in reports]
        counts[outcome] = [by_label[label] for label in labels if label in by_label]
    passed, failed = counts["passed"], counts["failed"]
    possible = cases.matrix()[1] | cases.sdxl_matrix()[1]
    terminalreporter.write_line(
        f"matrix: {len(passed) + len(failed)} cases, {len(passed)} passed, "
        f"{len(cases.covered(passed) & possible)} of {len(possible)} pairs covered"
    )
