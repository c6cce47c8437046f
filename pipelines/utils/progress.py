"""How far work is: a bar on a terminal, elsewhere a line now and then, in one place for everything that takes long.

On a terminal (of stderr) `Steps` is a tqdm bar. Without one, a line comes within 20 seconds and then at least
every 30 seconds while the work goes on; work that ends before says nothing. `SEGBUNDLES_PROGRESS_SECONDS` sets another
number of seconds for both; with 0 every step says a line, with `inf` none does.

Where work lies within other work (the windows of a case, the cases of a validation), one line speaks for all: of the
inner work once it has taken long by itself, or while the outer has nothing to tell.

ignite's ProgressBar (0.5.5) is no substitute: it is a bar per epoch of one engine, without work inside of work and
without the end of the whole. Where there is no terminal it rewrites its bar in one line of the log (16 steps wrote 34
bars and 2 line ends), and says nothing within a first step, however long.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime

from tqdm import tqdm

from pipelines.utils.progress_times import SECONDS, Beyond, Intervals, duration, finish, in_seconds, intervals
from pipelines.utils.ranks import rank

__all__ = ["SECONDS", "Beyond", "Intervals", "Steps", "Voice", "at_work", "intervals"]

logger = logging.getLogger(__name__)

"""Environment variable: seconds until the first line and between lines."""

RECENT = 120.0
"""Seconds of work whose mean pace an estimate goes by; more where they are fewer than 10 steps."""


class Voice:
    """Says the lines of all work that is going on in this process, outermost first, and times them.

    Args:
        clock: seconds that never go back.
        now: the time of day.
        say: gets each line; by default the log, or stderr where nobody has set up a log.
        every: seconds between lines; by default those of `intervals()` when work begins.
        timer: let a thread say what is due while a step goes on. It draws no random numbers, holds nothing that a
            forked process could wait for, and ends with the outermost work.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = datetime.now,
        say: Callable[[str], None] | None = None,
        every: Intervals | None = None,
        timer: bool = True,
    ) -> None:
        self.clock, self.now = clock, now
        self.every = every or Intervals(math.inf, math.inf)
        self._given = every
        self._say = say or _say
        self._timer = timer
        self._thread: threading.Thread | None = None
        self._due = math.inf
        self.work: list[Steps] = []
        self._make_locks()

    def _make_locks(self) -> None:
        # One that the same thread may take again: a signal's handler may end the work that is speaking.
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)

    def forked(self) -> None:
        """Forget, in a process forked from this one, the work and the thread that are the parent's."""
        self.work, self._thread, self._due = [], None, math.inf
        self._make_locks()

    def begin(self, steps: Steps) -> None:
        """Work has begun, within what this thread is doing already."""
        with self.lock:
            if not self._speaking:
                self.every = self._given or intervals()
                self._due = self.clock() + self.every.first
            self.work.append(steps)
            timed = self._timer and 0 < self.every.then < math.inf
            if timed and self._thread is None and self._speaking:
                self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)
                self._thread.start()

    def end(self, steps: Steps) -> None:
        """Work has ended, and with it what was left behind within it."""
        with self.lock:
            self.drop_within(steps)
            if steps in self.work:
                self.work.remove(steps)
            self._changed.notify_all()
            thread = self._thread if not self._speaking else None
            if thread is not None:
                self._thread = None
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def drop_within(self, steps: Steps) -> None:
        """Forget work inside of `steps` that an error left unfinished."""
        if self.work and self.work[-1] is not steps and steps in self.work:
            place = self.work.index(steps) + 1
            self.work[place:] = [other for other in self.work[place:] if other.owner != steps.owner]

    def tick(self, stepping: Steps | None = None) -> None:
        """Say a line if one is due.

        Args:
            stepping: the work that has just done a step, None where time alone has passed.
        """
        with self.lock:
            if self.clock() < self._due:
                return
            speaker = self._speaker(stepping)
            if speaker is None:
                return
            # Before it speaks: a log that fails must not be asked again at once.
            self._due = self.clock() + self.every.then
            self._say(speaker.line(stepping is not None))

    @property
    def _speaking(self) -> list[Steps]:
        """The work that has no bar."""
        return [steps for steps in self.work if steps.bar is None]

    def _speaker(self, stepping: Steps | None) -> Steps | None:
        candidates = self._speaking
        if self.every.then == 0 and stepping in candidates:
            return stepping
        speaker = None
        for steps in candidates:
            long = self.clock() - steps.started >= self.every.first
            if speaker is None or long or not speaker.estimable:
                speaker = steps
        return speaker

    def _watch(self) -> None:
        me = threading.current_thread()
        with self.lock:
            while self._thread is me and self._speaking:
                self.tick()
                # No longer than a lock can wait.
                self._changed.wait(min(max(self._due - self.clock(), 0.0), 3600.0))


class Steps:
    """Work of many steps, used as a context; or, without a total, work of which only its time is known.

    Only rank 0 of several processes speaks.

    Args:
        total: number of steps; None where there are none to count: then there is no bar but lines on a terminal too.
        unit: what a step is, such as "case"; without a total, the whole work, such as "downloading the demo CT".
        label: what is done with it, such as "validation".
        initial: steps that were done before this process began.
        warm_up: first steps of this process that an estimate leaves out as soon as there are others.
        quiet: say nothing.
        leave: keep the bar when the work is done.
        delay: seconds until a bar appears.
        beyond: what is to be done beside the steps, asked at each line.
        voice: says the lines; by default the process's own.
    """

    def __init__(
        self,
        total: int | None,
        unit: str,
        label: str = "",
        *,
        initial: int = 0,
        warm_up: int = 1,
        quiet: bool = False,
        leave: bool = True,
        delay: float = 0.0,
        beyond: Callable[[], Beyond] = Beyond,
        voice: Voice | None = None,
    ) -> None:
        self.total, self.unit, self.label = total, unit, label
        self.initial, self.warm_up = initial, warm_up
        self.quiet = quiet or rank() != 0
        self.leave, self.delay, self.beyond = leave, delay, beyond
        self.voice = voice or VOICE
        self.bar: tqdm | None = None
        self.owner = 0
        self.started = 0.0
        self.done = initial
        self._pause = ""
        self._paused = self._since = self._worked = 0.0
        # Seconds of work and steps done at some moments of the last minutes, all after the warm-up.
        self._marks: deque[tuple[float, int]] = deque()

    def __enter__(self) -> Steps:
        if self.quiet:
            return self
        self.owner = threading.get_ident()
        self.started = self._since = self.voice.clock()
        if self.total is not None and sys.stderr is not None and sys.stderr.isatty():
            self.bar = tqdm(
                total=self.total,
                initial=self.initial,
                desc=self.label or None,
                unit=self.unit,
                dynamic_ncols=True,
                leave=self.leave,
                delay=self.delay,
            )
        self.voice.begin(self)
        return self

    def __exit__(self, *error: object) -> None:
        if self.quiet:
            return
        self.voice.end(self)
        if self.bar is not None:
            self.bar.close()

    def step(self, count: int = 1) -> None:
        """So many more steps are done; may be called from several threads."""
        if self.quiet:
            return
        with self.voice.lock:
            self.voice.drop_within(self)
            now = self.voice.clock()
            self._worked += now - self._since
            self._since = now
            self.done += count
            if self.bar is not None:
                self.bar.update(count)
            if self.done - self.initial >= self.warm_up:
                self._mark()
        self.voice.tick(self)

    def pause(self, why: str) -> None:
        """What comes now belongs to no step, such as the end of an epoch."""
        if self.quiet or self._pause:
            return
        with self.voice.lock:
            self._paused, self._pause = self.voice.clock(), why

    def resume(self) -> float | None:
        """The next step begins; returns the seconds since `pause`, None without one."""
        if self.quiet or not self._pause:
            return None
        with self.voice.lock:
            now = self.voice.clock()
            self._pause, self._since = "", now
            return now - self._paused

    @property
    def paused(self) -> float:
        """Seconds since `pause`; 0 while steps go on."""
        return self.voice.clock() - self._paused if self._pause else 0.0

    @property
    def estimable(self) -> bool:
        """Whether there is a pace to tell, because a step is done."""
        return self.total is not None and self.done > self.initial

    @property
    def pace(self) -> float:
        """Seconds per step in the last minutes, the warm-up left out if there is anything else; NaN before a step."""
        if len(self._marks) > 1:
            (start, first), (stop, last) = self._marks[0], self._marks[-1]
            return (stop - start) / (last - first)
        return self._worked / (self.done - self.initial) if self.done > self.initial else math.nan

    def _mark(self) -> None:
        marks, mark = self._marks, (self._worked, self.done)
        # Not one for each of many quick steps.
        if len(marks) > 2 and self._worked - marks[-2][0] < 1.0:
            marks[-1] = mark
        else:
            marks.append(mark)
        while len(marks) > 11 and self._worked - marks[1][0] > RECENT:
            marks.popleft()

    @property
    def _in_step(self) -> float:
        return 0.0 if self._pause else self.voice.clock() - self._since

    @property
    def _noun(self) -> str:
        return f"{self.label} {self.unit}" if self.label else self.unit

    def line(self, stepped: bool = False) -> str:
        """How far the work is and when it will be finished, with the work around it.

        Args:
            stepped: a step has just been done.
        """
        work = self.voice.work
        around = work[: work.index(self)] if self in work else []
        parts = [steps._place() for steps in around if steps.total is not None]
        own = self._own(stepped, "" if not parts else f"{self._noun}s ")
        outer = next((steps for steps in around if steps.estimable), None)
        if outer is not None and outer.total != 1 and self.estimable:
            end = outer._end()
            own += f", all {end}" if end else ""
        return ": ".join([*parts, own])

    def _place(self) -> str:
        if self._pause:
            return f"after {self._noun} {self.done} of {self.total}"
        return f"in {self._noun} {min(self.done + 1, self.total or 0)} of {self.total}"

    def _own(self, stepped: bool, which: str) -> str:
        if self.total is None:
            return f"{self.unit}, {duration(self._in_step)} so far"
        here, inside = self.done - self.initial, self._in_step
        left = self.total - self.done
        long = not stepped and left > 0 and (not here or inside > max(self.voice.every.then, 2 * self.pace))
        if self._pause:
            text = f"{self._noun} {self.done} of {self.total}, then {self._pause} for {duration(self.paused)}"
        elif long:
            text = f"still in {self._noun} {self.done + 1} of {self.total}, {duration(inside)} so far"
        else:
            text = f"{self._noun} {self.done} of {self.total}"
        if not here:
            return text
        warm = " (warm-up included)" if len(self._marks) < 2 else ""
        text += f", {in_seconds(self.pace)} per {self.unit}{warm}"
        end = self._end()
        return f"{text}, {which}{end}" if end else text

    def _end(self) -> str:
        """When everything is done, in words; "" where it is or should be already."""
        beyond = self.beyond()
        left = (self.total or 0) - self.done
        seconds = beyond.seconds
        if left > 0:
            seconds += left * self.pace - min(self._in_step, self.pace)
        if seconds <= 0:
            return f"then {beyond.unknown}" if beyond.unknown else ""
        text = finish(seconds, self.voice.now())
        return f"{text} and {beyond.unknown}" if beyond.unknown else text


def _say(line: str) -> None:
    """To the log; to stderr where there is no log, as in `python -m pipelines evaluate`."""
    if sys.stderr is not None and sys.stderr.isatty():
        # A bar of the work around may stand there.
        tqdm.write(line, file=sys.stderr)
    elif logger.hasHandlers():
        logger.info(line)
    elif sys.stderr is not None:
        print(line, file=sys.stderr, flush=True)


VOICE = Voice()
"""The voice of this process."""


def at_work() -> bool:
    """Whether this process is telling how far some work is."""
    return bool(VOICE.work)


def _after_fork() -> None:
    VOICE.forked()


if hasattr(os, "register_at_fork"):
    # Nobody speaks while a process is forked, so that no lock of a stream is held in the copy for ever.
    os.register_at_fork(
        before=lambda: VOICE.lock.acquire(),
        after_in_parent=lambda: VOICE.lock.release(),
        after_in_child=_after_fork,
    )
