"""The peak of a process's memory: that of what is measured, not that of what was before."""

import subprocess
import sys

import pytest

# In a process of its own: one whose allocator keeps what was freed (a training sets it so) serves the second array
# from memory that it holds already, and its resident set doesn't grow.
MEASURE = """
import sys, time
import numpy as np
import psutil
from pipelines.utils.resident_memory import INTERVAL, PeakMemory

def hold(mebibytes):
    data = np.ones(mebibytes * 2**20, dtype=np.uint8)
    # Longer than between two looks of a busy machine.
    time.sleep(40 * INTERVAL)
    return int(data[-1])

hold(300)
before = psutil.Process().memory_info().rss
with PeakMemory(sampled=sys.argv[1] == "True") as peak:
    hold(100)
print((peak.bytes - before) / 2**20)
"""


@pytest.mark.parametrize("sampled", [False, True])
def test_the_peak_of_what_is_inside(sampled):
    grown = subprocess.run(
        [sys.executable, "-c", MEASURE, str(sampled)], capture_output=True, text=True, check=True, timeout=120
    )
    assert 95 < float(grown.stdout) < 150
