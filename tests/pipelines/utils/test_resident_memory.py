"""The peak of a process's memory: that of what is measured, not that of what was before."""

import time

import numpy as np
import psutil
import pytest

from pipelines.utils.resident_memory import INTERVAL, PeakMemory

MIB = 2**20


def hold(mebibytes):
    data = np.ones(mebibytes * MIB, dtype=np.uint8)
    # Longer than between two looks of a busy machine.
    time.sleep(40 * INTERVAL)
    return int(data[-1])


@pytest.mark.parametrize("sampled", [False, True])
def test_the_peak_of_what_is_inside(sampled):
    hold(300)
    before = psutil.Process().memory_info().rss
    with PeakMemory(sampled) as peak:
        hold(100)
    assert 95 * MIB < peak.bytes - before < 150 * MIB
