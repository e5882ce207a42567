"""The one bounded cache: what stays, what goes, and that several threads may use it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from lib_controlnet.gate import Bounded


def sized(count: int = 9, size: int | None = None) -> Bounded[str, int]:
    """A cache of numbers, each of which is its own size."""
    return Bounded(count, size, lambda _key, value: value)


def fill(cache: Bounded[str, int], **values: int) -> Bounded[str, int]:
    for key, value in values.items():
        cache.put(key, value)
    return cache


@pytest.mark.parametrize(
    ("cache", "steps", "left"),
    [
        (sized(2), lambda c: fill(c, a=1, b=2, c=3), [2, 3]),
        (sized(2), lambda c: (fill(c, a=1, b=2).get("a"), fill(c, c=3)), [1, 3]),
        (sized(2), lambda c: fill(c, a=1, b=2, a2=3), [2, 3]),
        (sized(2), lambda c: fill(fill(c, a=1, b=2), a=5, c=3), [5, 3]),
        (sized(0), lambda c: fill(c, a=1), []),
        (sized(-1), lambda c: fill(c, a=1), []),
        (sized(9, 10), lambda c: fill(c, a=4, b=4, c=4), [4, 4]),
        (sized(9, 10), lambda c: fill(c, a=4, large=11), [4]),
        (sized(9, 10), lambda c: fill(fill(c, a=4), a=11), []),
        (sized(9, 10), lambda c: (fill(c, a=4), c.put("large", 11, least=1)), [11]),
        (sized(0, 10), lambda c: c.put("needed", 11, least=1), [11]),
        (sized(), lambda c: fill(c, a=1, b=2, c=3).shrink(1), [3]),
        (sized(), lambda c: fill(c, a=1, b=2, c=3).drop(lambda key: key != "b"), [2]),
        (sized(), lambda c: fill(c, a=1).clear(), []),
    ],
)
def test_what_stays(cache: Bounded[str, int], steps: Callable[..., object], left: list) -> None:
    steps(cache)
    assert cache.values() == left
    assert (len(cache), cache.nbytes) == (len(left), sum(left))


def test_find_makes_what_is_not_there_and_only_that() -> None:
    cache: Bounded[str, int | None] = Bounded(2)
    assert cache.find("none", lambda: None) is None
    assert cache.find("none", lambda: pytest.fail("it is there")) is None
    with pytest.raises(ZeroDivisionError):
        cache.find("bad", lambda: 1 // 0)
    assert len(cache) == 1


def test_many_threads_never_see_more_than_the_limit() -> None:
    cache = sized(3, 12)
    seen: list[bool] = []

    def work(offset: int) -> None:
        for step in range(200):
            key = str((step * 7 + offset) % 11)
            cache.find(key, lambda: 4)
            seen.append(len(cache) <= 3 and cache.nbytes <= 12)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 800
    assert all(seen)
