"""Which process it was, and whether it lives."""

import multiprocessing
import os
import signal

from pipelines.utils import processes as liveness
from pipelines.utils.processes import alive, gone, identity

FORK = multiprocessing.get_context("fork")


def test_a_process_is_known_from_every_other():
    me = identity()
    assert alive(me)
    assert not gone(me)
    process = FORK.Process(target=signal.pause, daemon=True)
    process.start()
    other = {**me, "pid": process.pid, "started": liveness._started(process.pid)}
    assert alive(other)
    assert not gone(other)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie until it is joined
    assert gone(other)
    process.join()
    assert gone(other)
    assert not alive(other)
    assert gone({**me, "started": me["started"] - 100}), "another process has its number now"
    assert gone({**me, "boot": "before the reboot"})
    for key in ("host", "machine", "space"):
        elsewhere = {**me, "pid": 1 << 30, key: "elsewhere"}
        assert not gone(elsewhere), "nothing is known of another host or container"
        assert not alive(elsewhere)
    assert not gone({})
