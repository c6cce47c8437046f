"""What signals do."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from pipelines.utils import signals as stopping
from pipelines.utils.signals import SignalHandler, StopRequest, terminating


class Ended(Exception):
    pass


@pytest.fixture
def ends():
    """A handler as the program around has it."""

    def handler(number, frame):
        raise Ended

    before = signal.signal(signal.SIGTERM, handler)
    yield handler
    signal.signal(signal.SIGTERM, before)


def terminate():
    signal.raise_signal(signal.SIGTERM)


def test_the_first_signal_is_noted_and_the_second_ends(ends):
    with StopRequest() as request:
        terminate()
        assert request.number == signal.SIGTERM
        with pytest.raises(Ended):
            terminate()
        with pytest.raises(Ended):
            request.end_now()
    assert signal.getsignal(signal.SIGTERM) is ends


def test_where_nothing_can_be_lost_the_first_ends(ends):
    with StopRequest() as request:
        request.at_once = True
        with pytest.raises(Ended):
            terminate()


def test_a_handler_is_set_for_a_while_and_passes_on(ends):
    heard = []
    with SignalHandler(signal.SIGTERM, lambda number, frame: heard.append(number)) as handler:
        terminate()
        assert heard == [signal.SIGTERM]
        with pytest.raises(Ended):
            handler.pass_on()
    assert signal.getsignal(signal.SIGTERM) is ends
    with pytest.raises(SystemExit, match="143"), terminating():
        terminate()
    assert signal.getsignal(signal.SIGTERM) is ends


def test_a_handler_that_ignores_leaves_the_signal_ignored(ends):
    with SignalHandler(signal.SIGTERM, ends) as handler:
        handler.ignore()
        terminate()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    with StopRequest() as request, terminating() as handler:
        terminate()
    assert (request.number, handler.is_set) == (None, False)


def test_outside_of_the_main_thread_nothing_is_set(ends):
    found = []

    def work():
        with terminating() as handler, StopRequest():
            found.append((handler.is_set, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, ends)]


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a signal has another exit status")
def test_passing_on_to_the_system_ends_the_process():
    program = (
        "import signal\n"
        "from pipelines.utils.signals import SignalHandler\n"
        "with SignalHandler(signal.SIGTERM, lambda number, frame: handler.pass_on(frame)) as handler:\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == -signal.SIGTERM


def test_what_is_ignored_stays_ignored():
    program = (
        "import os, signal\n"
        "from pipelines.utils.signals import StopRequest\n"
        "with StopRequest() as request:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print(request.number)\n"
    )
    command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-c", program]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "None\n"


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize(("pause", "ended"), [(0.0, False), (0.9, False), (1.1, True)])
def test_under_torchrun_signals_close_together_are_one(pause, ended, monkeypatch):
    """Batch systems signal torchrun, which passes it on, and its processes too."""
    heard, now = [], [100.0]
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(stopping, "SAME_REQUEST_SECONDS", 1.0)
    monkeypatch.setattr(stopping, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(stopping.StopRequest, "end_now", lambda self, number=None: heard.append(self.number))
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    with contextlib.ExitStack() as stack:
        stack.callback(signal.signal, signal.SIGTERM, before)
        request = stack.enter_context(stopping.StopRequest())
        # A signal to this very thread, which has handled it when the call returns.
        signal.raise_signal(signal.SIGTERM)
        now[0] += pause
        signal.raise_signal(signal.SIGTERM)
        assert request.number == signal.SIGTERM
        assert bool(heard) == ended
        request.busy, heard[:] = True, []
        signal.raise_signal(signal.SIGTERM)
        assert not heard
