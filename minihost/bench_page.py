"""`python dev.py bench --page`: what the panel costs the page, in a headless Chromium.

Counts are the same in every run. Times are those in which the page's own thread was at work, so
that a busy machine does not blur them; two addresses take turns.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from browsers import start_browser
from httpx import URL
from servers import embedded_host

MOST: Final = 2
TYPES: Final = ("Canny", "Depth", "OpenPose", "All")
"""Control types that are switched through, several times."""
SWITCHES: Final = 12
PANELS: Final = ("txt2img_controlnet", "img2img_controlnet")
COUNT: Final = """async (names) => {
  // What the server has sent: the page hangs its own objects into what it has of it.
  const html = await (await fetch(location.href)).text();
  const config = JSON.parse(/window\\.gradio_config = (.*?);<\\/script>/s.exec(html)[1]);
  const byId = new Map(config.components.map((one) => [one.id, one]));
  const ours = new Set();
  const collect = (node, inside) => {
    const within = inside || names.includes(byId.get(node.id)?.props.elem_id);
    if (within) ours.add(node.id);
    for (const child of node.children || []) collect(child, within);
  };
  collect(config.layout, false);
  const own = config.components.filter((one) => ours.has(one.id));
  // A target is an id in gradio 3, an id and an event in gradio 4.
  const isOurs = (event) => event.targets.some((target) => ours.has([target].flat()[0]));
  const events = config.dependencies.filter(isOurs);
  const bytes = (list) => new TextEncoder().encode(JSON.stringify(list)).length;
  return {
    units: document.querySelectorAll('[id$="_controlnet_enable_checkbox"]').length,
    components: own.length,
    events: events.length,
    "kB of components": bytes(own) / 1000,
    "kB of events": bytes(events) / 1000,
    "kB of the whole page": new TextEncoder().encode(html).length / 1000,
  };
}"""
"""Names of the panels' elements -> what the page's configuration holds of them."""
REST: Final = """() => new Promise((done) => {
  const next = (left) => {
    if (left) requestAnimationFrame(() => next(left - 1));
    else requestIdleCallback(done);
  };
  next(3);
})"""
"""Comes back when the page has nothing more to do."""

Figures = dict[str, list[float]]


def bench_page(addresses: Sequence[str], rounds: int) -> int:
    """Measure and print a table.

    Args:
        addresses: up to two of running WebUIs, NAME=URL or URL; none: the embedded host is started.
        rounds: pages that each of them opens.

    Returns:
        Exit status.
    """
    from playwright.sync_api import sync_playwright

    with sites(addresses) as named, sync_playwright() as playwright:
        hosts = {str(URL(url).host) for url in named.values()}
        if len(hosts) > 1:
            msg = f"--page: both have to be at one host, got {' and '.join(sorted(hosts))}"
            raise SystemExit(msg)
        browser = start_browser(playwright, hosts.pop())
        found: dict[str, Figures] = {name: {} for name in named}
        for turn in range(rounds + 1):
            for name, url in named.items():
                figures = measure(browser, url)
                if turn:  # the first page has the host's scripts compiled
                    for what, value in figures.items():
                        found[name].setdefault(what, []).append(value)
        browser.close()
    print("\n".join(table(found)))
    return 0


@contextmanager
def sites(addresses: Sequence[str]) -> Iterator[dict[str, str]]:
    """Name -> address of what is measured."""
    if addresses:
        split = [text.rpartition("=") for text in addresses]
        yield {name or f"{number}": url.rstrip("/") for number, (name, _, url) in enumerate(split)}
        return
    with tempfile.TemporaryDirectory() as folder, embedded_host(Path(folder)) as server:
        yield {"embedded host": server.url}


def measure(browser: Any, url: str) -> dict[str, float]:
    """One page: what its configuration holds, its time until it rests, that of a type's switch."""
    page = browser.new_page(viewport={"width": 1500, "height": 1400})
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def busy() -> float:
        """Milliseconds that the page's thread was at work so far."""
        metrics = session.send("Performance.getMetrics")["metrics"]
        return 1000 * next(one["value"] for one in metrics if one["name"] == "TaskDuration")

    page.goto(url, wait_until="domcontentloaded")
    page.wait_for_selector("#txt2img_generate", timeout=240_000)
    page.evaluate(REST)
    ready = busy()
    figures = page.evaluate(COUNT, list(PANELS))
    switched = switch_types(page, busy)
    page.close()
    return {**figures, "ms until ready": ready, "ms of a type's switch": switched}


def switch_types(page: Any, busy: Any) -> float:
    """The median of switches of the first unit's control type, milliseconds."""
    page.click("#txt2img_controlnet .label-wrap")
    unit = '[id^="txt2img_controlnet_ControlNet"]'
    radio = page.locator(f'{unit}[id$="_controlnet_type_filter_radio"]').first
    radio.wait_for()
    page.wait_for_timeout(500)
    spent = []
    for turn in range(SWITCHES):
        page.evaluate(REST)
        before = busy()
        radio.locator(f"label:has(input[value='{TYPES[turn % len(TYPES)]}'])").click()
        page.wait_for_timeout(700)  # the answer comes within; waiting takes the page no time
        page.evaluate(REST)
        spent.append(busy() - before)
    return statistics.median(spent[len(TYPES) :])


def table(found: dict[str, Figures]) -> list[str]:
    """A table in Markdown: a row for each figure, and with two sites their ratio."""
    names = [*found]
    ratio = ["ratio"] if len(names) == MOST else []
    lines = ["| " + " | ".join(["median of the pages", *names, *ratio]) + " |"]
    lines.append("|---" * (1 + len(names) + len(ratio)) + "|")
    for what in found[names[0]]:
        medians = [statistics.median(found[name][what]) for name in names]
        cells = [f"{value:.0f}" for value in medians]
        if ratio:
            cells.append(f"{medians[0] / medians[1]:.2f}" if medians[1] else "")
        lines.append("| " + " | ".join([what, *cells]) + " |")
    return lines


def check_addresses(reader: argparse.ArgumentParser, addresses: Sequence[str]) -> None:
    """Refuse more than can be compared."""
    if len(addresses) > MOST:
        reader.error(f"--page: at most {MOST} can be compared, got {len(addresses)}")
