"""Running a module as `python -m` does while measuring the time of its parts, for `benchmarks.startup`.

    python -m benchmarks.stopwatch RESULT.json '{"module:function": "part"}' MODULE:FUNCTION MODULE [WORDS]

The time of the main thread is assigned to exactly one part, the innermost function or import that is running. The
time of a part is that of its calls without that of other parts within them, so that the parts add up to the total.
Functions are wrapped after their module was imported; no module is imported for this purpose.
"""

from __future__ import annotations

import functools
import json
import os
import runpy
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGES = ("torch", "monai", "ignite", "mlflow")
OURS = ("pipelines", "networks", "transforms")


class Stop(BaseException):
    """Raised to end the process after the call of the function given as `stop`."""


class Stopwatch:
    """Wall and processor seconds of the main thread by part."""

    def __init__(self) -> None:
        self.parts: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._open: list[str] = []
        self._since = (time.time(), time.thread_time())

    def _take(self) -> None:
        now = (time.time(), time.thread_time())
        if self._open:
            part = self.parts[self._open[-1]]
            part[0] += now[0] - self._since[0]
            part[1] += now[1] - self._since[1]
        self._since = now

    def begin(self, part: str) -> None:
        self._take()
        self._open.append(part)

    def end(self) -> None:
        self._take()
        self._open.pop()

    def timed(self, part: str, function: Callable[..., Any], stop: bool = False) -> Callable[..., Any]:
        """The function with its time taken; with `stop`, the end of its first call is the end of everything."""

        @functools.wraps(function)  # ignite looks at a handler's parameters
        def call(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                return function(*args, **kwargs)
            self.begin(part)
            try:
                value = function(*args, **kwargs)
                if stop:
                    _wait_for_the_device()
            finally:
                self.end()
            if stop:
                raise Stop
            return value

        return call


def _wait_for_the_device() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


class Finder(MetaPathFinder):
    """Takes the time of imports, and wraps functions of what was imported.

    Args:
        watch: gets the times.
        functions: part by "module:name" or "module:class.name".
        stop: one of them.
    """

    def __init__(self, watch: Stopwatch, functions: dict[str, str], stop: str) -> None:
        self.watch, self.functions, self.stop = watch, functions, stop

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = None
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(name, path, target)) is not None:
                break
        if spec is None or spec.loader is None or isinstance(spec.loader, type):
            return spec
        top = name.partition(".")[0]
        part = "import " + ("ours" if top in OURS else top if top in PACKAGES else "others")
        run = self.watch.timed(part, spec.loader.exec_module)

        def exec_module(module: ModuleType) -> None:
            run(module)
            self._wrap(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def _wrap(self, module: ModuleType) -> None:
        for place, part in self.functions.items():
            home, _, path = place.partition(":")
            if home != module.__name__:
                continue
            owner: Any = module
            *outer, name = path.split(".")
            for step in outer:
                owner = getattr(owner, step)
            setattr(owner, name, self.watch.timed(part, getattr(owner, name), stop=place == self.stop))


def main() -> None:
    result, functions, stop, module, *words = sys.argv[1:]
    watch = Stopwatch()
    # From the parent's clock: what the interpreter needs before the first line here.
    started = float(os.environ["STOPWATCH_STARTED"])
    watch.parts["interpreter"] = [time.time() - started, time.process_time()]
    sys.path_importer_cache.clear()
    sys.meta_path.insert(sys.meta_path.index(PathFinder), Finder(watch, json.loads(functions), stop))
    sys.argv = [module, *words]
    watch.begin("the rest")

    def say() -> None:
        watch.end()
        found = {
            "parts": watch.parts,
            "wall": time.time() - started,
            "processor": time.process_time(),
            "spent": sum(os.times()[:4]),  # with the processes that it waited for
            "ended": time.time(),
        }
        Path(result).write_text(json.dumps(found), encoding="utf-8")

    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except Stop:
        pass
    finally:
        say()


if __name__ == "__main__":
    main()
