"""Work in processes of its own: every result, one each, and a word about processes that die."""

import contextlib
import os

import psutil
import pytest

from pipelines.utils.worker_processes import WorkerDiedError, end_with_parent, in_processes, worker_count
from tests.waiting import wait_for

offset = 0


def start(value):
    global offset
    offset = value
    end_with_parent()


def added(item):
    return item + offset, os.getpid()


def fatal(item):
    os._exit(9)


def test_each_piece_of_work_comes_back_with_its_result():
    found = dict(in_processes(added, range(20), 2, start, 100))
    assert {item: result for item, (result, _) in found.items()} == {item: item + 100 for item in range(20)}
    assert os.getpid() not in {process for _, process in found.values()}


def test_work_that_nobody_waits_for_ends_with_its_processes():
    results = in_processes(added, iter(int, 1), 2, start, 0)  # without end
    with contextlib.closing(results):
        _, (_, process) = next(results)
    wait_for(lambda: not psutil.pid_exists(process))


def test_a_process_that_dies_is_an_error_that_says_what_it_worked_on():
    with pytest.raises(WorkerDiedError) as raised:
        list(in_processes(fatal, ["a", "b"], 1, start, 0))
    assert raised.value.items == ["a", "b"]


@pytest.mark.parametrize(
    ("asked", "items", "wanted"), [(3, 2, 2), (3, 9, 3), (0, 9, 0), (None, 1, 0), (None, 0, 0)]
)
def test_no_more_processes_than_work(asked, items, wanted):
    assert worker_count(asked, items) == wanted


def test_processes_for_many_pieces_of_work():
    assert 1 <= worker_count(None, 10_000) <= 8
