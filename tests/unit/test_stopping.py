"""Stopping a preview: its download, its wait, its network."""

from __future__ import annotations

import threading

import pytest
import torch

from lib_controlnet.detect.stopping import StoppedRuns, stoppable, wait_for_turn
from lib_controlnet.errors import StoppedError


def layers(count: int, reached: list[int]) -> torch.nn.Module:
    class Layer(torch.nn.Module):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            reached.append(self.number)
            return x

    return torch.nn.Sequential(*map(Layer, range(count)))


def test_a_network_ends_before_its_next_layer() -> None:
    reached: list[int] = []
    network = layers(5, reached)
    with pytest.raises(StoppedError), stoppable(lambda: len(reached) == 2):
        network(torch.zeros(1))
    assert reached == [0, 1]
    network(torch.zeros(1))
    assert reached[2:] == [0, 1, 2, 3, 4], "nothing stays behind"


def test_networks_of_other_threads_go_on() -> None:
    reached: list[int] = []
    with stoppable(lambda: True):
        other = threading.Thread(target=layers(3, reached), args=(torch.zeros(1),))
        other.start()
        other.join()
    assert reached == [0, 1, 2]


def test_who_waits_for_a_turn_keeps_its_place_and_can_leave() -> None:
    turns, came, is_stopped = threading.Semaphore(0), [], threading.Event()

    def wait(number: int, stops: threading.Event) -> None:
        try:
            wait_for_turn(turns, stops.is_set)
            came.append(number)
        except StoppedError:
            came.append(-number)

    threads = [
        threading.Thread(target=wait, args=(number, stops))
        for number, stops in ((1, is_stopped), (2, threading.Event()))
    ]
    for thread in threads:
        thread.start()
    is_stopped.set()
    threads[0].join(60)
    assert came == [-1], "it waits no longer though the lock is still taken"
    turns.release()  # goes past the one that left
    threads[1].join(60)
    assert came == [-1, 2]
    assert not turns.acquire(blocking=False), "taken once"


def test_a_run_may_be_stopped_before_it_begins_and_old_numbers_are_forgotten() -> None:
    stopped = StoppedRuns()
    stopped.stop(7)
    assert 7 in stopped
    assert 8 not in stopped
    assert None not in stopped
    for number in range(100, 300):
        stopped.stop(number)
    assert 7 not in stopped
    assert 299 in stopped
