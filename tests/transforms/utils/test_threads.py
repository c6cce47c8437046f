"""One item ahead, in order, with errors where they belong."""

import threading

import pytest

from transforms.utils.threads import ahead


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_results_come_in_order(parallel, count):
    found = [(item, take()) for item, take in ahead(lambda n: n * n, range(count), parallel)]
    assert found == [(n, n * n) for n in range(count)]


@pytest.mark.parametrize("parallel", [False, True])
def test_an_error_belongs_to_its_item(parallel):
    def prepare(number):
        if number == 1:
            raise ValueError("one")
        return number

    found = []
    for _, take in ahead(prepare, range(3), parallel):
        try:
            found.append(take())
        except ValueError as error:
            found.append(str(error))
    assert found == [0, "one", 2]


def test_the_next_is_prepared_meanwhile_and_only_the_next():
    started = [threading.Event() for _ in range(4)]

    def prepare(number):
        started[number].set()
        return number

    for item, take in ahead(prepare, range(4), parallel=True):
        assert take() == item
        if item < 3:
            assert started[item + 1].wait()
        if item < 2:
            assert not started[item + 2].is_set()


def test_leaving_early_waits_for_nobody_else():
    asked = []
    for item, _ in ahead(lambda n: asked.append(n), range(100), parallel=True):
        if item == 2:
            break
    assert set(asked) <= {0, 1, 2, 3}
