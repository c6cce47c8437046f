"""Time for logging to MLflow at 20 iterations per second, compared with MONAI's MLFlowHandler.

    python -m benchmarks.tracking                     # SQLite and a server, about 90 seconds
    python -m benchmarks.tracking --stores sqlite     # without a server
    python -m benchmarks.tracking --iterations 400

An ignite engine runs iterations of 50 ms with matrix multiplications, and both implementations log the loss and
learning rate of every iteration (a training of this project logs every tenth). Results:

- ms in the training's thread: time that an iteration waits for logging, mean over the iterations;
- ms of processor time: total processor time of logging, including the background thread and the end of the run.

Each implementation runs in a separate process. The server is `mlflow server` on loopback with one worker, on SQLite.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import torch
from ignite.engine import Engine, Events

from benchmarks.measure import run_apart

ITERATION = 0.05


def _engine(spent: list[float]) -> Engine:
    a = torch.rand(256, 256)

    def work(engine: Engine, batch: int) -> dict[str, torch.Tensor]:
        began, end = time.thread_time(), time.perf_counter() + ITERATION
        while time.perf_counter() < end:
            torch.mm(a, a)
        spent.append(time.thread_time() - began)
        return {"loss": torch.tensor(1.0 / batch)}

    engine = Engine(work)
    engine.optimizer = SimpleNamespace(param_groups=[{"lr": 0.01}])
    return engine


def _measure(way: str, uri: str, iterations: int) -> dict[str, float]:
    torch.set_num_threads(1)
    spent: list[float] = []
    waited: list[float] = []
    engine, began = _engine(spent), [0.0]
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: began.__setitem__(0, time.perf_counter()))
    end: Callable[[], None] = lambda: None  # noqa: E731
    if way == "ours":
        from pipelines.tracking.run import Tracking

        tracking = Tracking("benchmark", uri=uri)
        tracking.start()

        def say(engine: Engine) -> None:
            values = {"train_loss": float(engine.state.output["loss"])}
            values["learning_rate"] = engine.optimizer.param_groups[0]["lr"]
            tracking.metrics(values, engine.state.iteration)

        engine.add_event_handler(Events.ITERATION_COMPLETED, say)
        end = lambda: tracking.finish("FINISHED")  # noqa: E731
    elif way == "monai":
        from monai.handlers import MLFlowHandler

        handler = MLFlowHandler(
            uri, epoch_log=False, output_transform=lambda output: output["loss"], close_on_complete=True
        )
        handler.attach(engine)
    engine.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: waited.append(time.perf_counter() - began[0])
    )
    cpu = [0.0]
    engine.add_event_handler(Events.STARTED, lambda: cpu.__setitem__(0, time.process_time()))
    engine.run(range(1, iterations + 1), max_epochs=1)
    end()
    busy = time.process_time() - cpu[0] - sum(spent)
    return {"ms": 1e3 * sum(waited) / len(waited), "processor_ms": 1e3 * busy / iterations}


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--backend-store-uri", "sqlite:///server.db"]
    variables = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=variables, stdout=log, stderr=log, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=5):
                    break
            except OSError:
                time.sleep(0.5)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stores", nargs="+", choices=("sqlite", "server"), default=["sqlite", "server"])
    parser.add_argument("--iterations", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", choices=("ours", "monai"), help=argparse.SUPPRESS)
    parser.add_argument("--uri", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    if options.only:
        print(json.dumps(_measure(options.only, options.uri, options.iterations)))
        return
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        # The spool of a server's runs lies in the working directory.
        os.environ["SEGBUNDLES_SPOOL"] = str(folder / "spool")
        lines = []
        for kind in options.stores:
            uri = (
                f"sqlite:///{folder / 'mlflow.db'}"
                if kind == "sqlite"
                else stack.enter_context(_server(folder))
            )
            arguments = ["--uri", uri, "--iterations", str(options.iterations)]
            found = run_apart("benchmarks.tracking", ("ours", "monai"), options.rounds, arguments)
            ours, peer = found["ours"]["ms"], found["monai"]["ms"]
            share = 1e-3 / ITERATION
            lines += [
                f"RESULT waited_ms_per_iteration_{kind} ours={ours:.3f} peer={peer:.2f} ratio={ours / peer:.5f}",
                f"RESULT waited_share_of_50_ms_{kind} ours={ours * share:.3%} peer={peer * share:.1%} "
                f"ratio={ours / peer:.5f}",
            ]
            mine, theirs = found["ours"]["processor_ms"], found["monai"]["processor_ms"]
            lines.append(
                f"RESULT processor_ms_per_iteration_{kind} ours={mine:.2f} peer={theirs:.2f} "
                f"ratio={mine / theirs:.3f}"
            )
        print("\n".join(lines))


if __name__ == "__main__":
    main()
