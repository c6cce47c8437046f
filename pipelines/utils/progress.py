"""Progress of long work: a bar on a terminal, otherwise a line at regular intervals.

If stderr is a terminal, `Steps` shows a tqdm bar. Otherwise it writes the first line after 20 seconds and then one
every 30 seconds; shorter work writes nothing. `SEGBUNDLES_PROGRESS_SECONDS` sets another number of seconds for both;
with 0 every step writes a line, with `inf` none does.

If work is nested (the windows of a case, the cases of a validation), one line describes all levels. Its details are
those of the inner work once that has taken long, or while the outer work has no pace to report.

ignite's ProgressBar (0.5.5) is not used: it shows one bar per epoch of one engine, without nested work and without the
end of the whole work. Without a terminal it repeats its bar in one line of the log (16 steps wrote 34 bars and 2 line
ends), and it shows nothing during the first step.
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

from pipelines.utils.anonymity import without_places
from pipelines.utils.progress_times import SECONDS, Beyond, Intervals, duration, finish, in_seconds, intervals
from pipelines.utils.ranks import rank

__all__ = ["SECONDS", "Beyond", "Intervals", "Steps", "Voice", "at_work", "intervals"]

logger = logging.getLogger(__name__)

RECENT = 120.0
"""Estimates use the mean pace of the last so many seconds of work, or of the last 10 steps if these took longer."""


class Voice:
    """Writes the progress lines of all work in this process, outermost first, at the right times.

    Args:
        clock: monotonic clock in seconds.
        now: returns the time of day.
        say: function that writes a line; by default to the log, or to stderr if no log is configured.
        every: seconds between lines; by default those of `intervals()` when work begins.
        timer: use a thread to write lines that become due during a step. It draws no random numbers, holds no lock
            during a fork, and ends with the outermost work.
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
        # Reentrant, because a signal handler may end the work while the same thread writes a line.
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)

    def forked(self) -> None:
        """In a forked process, remove the work and the thread of the parent process."""
        self.work, self._thread, self._due = [], None, math.inf
        self._make_locks()

    def begin(self, steps: Steps) -> None:
        """Add work that begins, nested within the current work of this thread."""
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
        """Remove work that has ended, and unfinished work nested in it."""
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
        """Remove work nested in `steps` that an error left unfinished."""
        if self.work and self.work[-1] is not steps and steps in self.work:
            place = self.work.index(steps) + 1
            self.work[place:] = [other for other in self.work[place:] if other.owner != steps.owner]

    def tick(self, stepping: Steps | None = None) -> None:
        """Write a line if one is due.

        Args:
            stepping: the work that has just done a step; None if called by the timer.
        """
        with self.lock:
            if self.clock() < self._due:
                return
            speaker = self._speaker(stepping)
            if speaker is None:
                return
            # Set before writing, so that a log that fails is not called again at once.
            self._due = self.clock() + self.every.then
            self._say(speaker.line(stepping is not None))

    @property
    def _speaking(self) -> list[Steps]:
        """The work without a bar, whose progress is written as lines."""
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
                # Limited, because very long timeouts of a lock raise an error.
                self._changed.wait(min(max(self._due - self.clock(), 0.0), 3600.0))


class Steps:
    """Progress of work with a number of steps, used as a context manager; without a total, only its time is shown.

    Of several processes, only rank 0 shows progress.

    Args:
        total: number of steps; None if steps cannot be counted: then there are lines instead of a bar, also on a
            terminal.
        unit: name of a step, such as "case"; without a total, name of the work, such as "downloading the demo CT".
        label: name of the work, such as "validation".
        initial: number of steps that were done before this process started.
        warm_up: number of first steps of this process that estimates leave out as soon as there are others.
        quiet: show nothing.
        leave: keep the bar when the work is done.
        delay: seconds until the bar appears.
        beyond: returns the work that remains after the steps; called for each line.
        voice: writes the lines; by default that of the process.
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
        self.total, self.unit, self.label = total, without_places(unit), label
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
        # Pairs of (seconds of work, steps done) at some times of the last minutes, after the warm-up.
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
        """Report that `count` more steps are done; may be called from several threads."""
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
        """Begin work that belongs to no step, such as the end of an epoch."""
        if self.quiet or self._pause:
            return
        with self.voice.lock:
            self._paused, self._pause = self.voice.clock(), why

    def resume(self) -> float | None:
        """Begin the next step; returns the seconds since `pause`, or None if there was no pause."""
        if self.quiet or not self._pause:
            return None
        with self.voice.lock:
            now = self.voice.clock()
            self._pause, self._since = "", now
            return now - self._paused

    @property
    def paused(self) -> float:
        """Seconds since `pause`; 0 if not paused."""
        return self.voice.clock() - self._paused if self._pause else 0.0

    @property
    def estimable(self) -> bool:
        """Whether the pace is known, because at least one step is done."""
        return self.total is not None and self.done > self.initial

    @property
    def pace(self) -> float:
        """Seconds per step in the last minutes, without the warm-up if other steps are done; NaN before the first."""
        if len(self._marks) > 1:
            (start, first), (stop, last) = self._marks[0], self._marks[-1]
            return (stop - start) / (last - first)
        return self._worked / (self.done - self.initial) if self.done > self.initial else math.nan

    def _mark(self) -> None:
        marks, mark = self._marks, (self._worked, self.done)
        # At most one mark per second, so that quick steps do not add many.
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
        """The progress line: position and expected end of this work and of the work that contains it.

        Args:
            stepped: whether a step has just been done.
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
        """Text with the expected end of all work; "" if no time remains."""
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
    """Write a line to the log, or to stderr if no log is configured, as in `python -m pipelines evaluate`."""
    if sys.stderr is not None and sys.stderr.isatty():
        # There may be a bar of the outer work, which tqdm must redraw.
        tqdm.write(line, file=sys.stderr)
    elif logger.hasHandlers():
        logger.info(line)
    elif sys.stderr is not None:
        print(line, file=sys.stderr, flush=True)


VOICE = Voice()
"""The writer of progress lines of this process."""


def at_work() -> bool:
    """Whether this process is showing the progress of any work."""
    return bool(VOICE.work)


def _after_fork() -> None:
    VOICE.forked()


if hasattr(os, "register_at_fork"):
    # No line is written during a fork, because a stream's lock held at that time would stay locked in the child.
    os.register_at_fork(
        before=lambda: VOICE.lock.acquire(),
        after_in_parent=lambda: VOICE.lock.release(),
        after_in_child=_after_fork,
    )
