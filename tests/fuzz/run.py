"""Sending malformed requests and keeping the score."""

from __future__ import annotations

import collections
import hashlib
import json
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx
from fuzz.cases import FEW, KINDS, MODEL, UNIT, Case
from hypothesis import HealthCheck, Phase, given, seed, settings

SHARES: Mapping[str, int] = {"detect": 30, "render": 20, "units": 30, "queries": 5, "raw": 15}
"""Per cent of the requests by kind."""
ALLOWED = {200, 400, 404, 405, 413, 422}


@dataclass
class Score:
    """What came back.

    Attributes:
        statuses: answers by kind of request and status.
        failures: requests with an answer that must not be.
        slowest: seconds and request of the slowest answer.
    """

    statuses: dict[str, collections.Counter] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def requests(self) -> int:
        return sum(sum(counter.values()) for counter in self.statuses.values())

    def send(self, client: httpx.Client, kind: str, case: Case) -> None:
        """Send one request and judge the answer."""
        started = time.perf_counter()
        try:
            answer = client.request(
                case.method, case.path, content=case.content, headers={"content-type": case.kind}
            )
        except httpx.HTTPError as error:
            with self.lock:
                self.statuses.setdefault(kind, collections.Counter())[type(error).__name__] += 1
                self.failures.append(f"{error!r} for {case}")
            return
        spent = time.perf_counter() - started
        fault = judge(case, answer)
        with self.lock:
            self.slowest = max(self.slowest, (spent, str(case)[:200]))
            self.statuses.setdefault(kind, collections.Counter())[answer.status_code] += 1
            if fault:
                self.failures.append(f"{fault} for {case}: {answer.text[:500]}")


def judge(case: Case, answer: httpx.Response) -> str | None:
    """What is wrong with an answer."""
    if answer.status_code not in ALLOWED:
        return f"status {answer.status_code}"
    if case.method == "HEAD":
        return None
    try:
        body = json.loads(answer.text)
    except ValueError:
        return "no JSON"
    if answer.status_code != httpx.codes.OK and not body.get("detail"):
        return "no reason"
    return None


def drawn(kind: str, count: int, start: int) -> list[Case]:
    """`count` requests of a kind; the same seed gives the same requests."""
    cases: list[Case] = []

    @seed(start)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(KINDS[kind])
    def one(case: Case) -> None:
        cases.append(case)

    one()
    return cases


def fuzz(
    client: httpx.Client,
    kind: str,
    count: int,
    start: int,
    score: Score,
    threads: int = 1,
    model: str = MODEL,
) -> None:
    """Send requests of a kind, several at a time with several threads.

    Args:
        model: a control model that the server has.
    """
    with ThreadPoolExecutor(threads) as pool:
        cases = [case.naming(model) for case in drawn(kind, count, start)]
        for answer in [pool.submit(score.send, client, kind, case) for case in cases]:
            answer.result()


def reference(client: httpx.Client) -> str:
    """Digest of the pictures of a good generation."""
    unit = {**UNIT, "module": "canny"}
    body = {**FEW, "steps": 2, "alwayson_scripts": {"ControlNet": {"args": [unit]}}}
    answer = client.post("/sdapi/v1/txt2img", json=body)
    assert answer.status_code == httpx.codes.OK, answer.text[:2000]
    pictures = answer.json()["images"]
    assert len(pictures) == 2, "the picture and its map"
    return hashlib.sha256("".join(pictures).encode()).hexdigest()


def table(score: Score) -> str:
    """Statuses by kind of request, as docs/fuzz.md shows them, and the slowest answer."""
    columns = sorted({status for counter in score.statuses.values() for status in counter}, key=str)
    lines = [f"| requests | {' | '.join(map(str, columns))} |"]
    for kind, counter in score.statuses.items():
        lines.append(f"| {kind} | {' | '.join(str(counter[status]) for status in columns)} |")
    lines.append(f"requests: {score.requests}")
    lines.append(f"slowest answer: {score.slowest[0]:.1f} s, {score.slowest[1]}")
    return "\n".join(lines)
