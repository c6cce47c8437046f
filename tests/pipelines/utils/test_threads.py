"""Many small pieces of reading at once."""

import threading

import pytest

from pipelines.utils.threads import in_threads


@pytest.mark.parametrize("count", [0, 1, 7, 5000])
def test_results_come_in_the_order_of_the_items(count):
    assert in_threads(lambda n: n * n, range(count), "squaring") == [n * n for n in range(count)]


def test_items_are_worked_on_at_once():
    """Each waits for the other, so one after the other would never end."""
    both = threading.Barrier(2)
    assert sorted(in_threads(lambda _: both.wait(), range(2), "waiting")) == [0, 1]


def test_an_error_comes_through():
    def fails(number):
        if number == 3:
            raise OSError("no such case")
        return number

    with pytest.raises(OSError, match="no such case"):
        in_threads(fails, range(9), "reading")
