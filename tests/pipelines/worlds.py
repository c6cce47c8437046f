"""Trainings by several processes as torchrun would start them, but as forks of one that has imported everything.

`python -m tests.pipelines.worlds JOBS.json` runs one job after the other and prints a JSON line for each: the exit
status of every rank, and which ranks had to be killed. A job is {"world": 2, "folder": for the logs `rank0.log`, ...,
"config": path or list of paths, "overrides": {...}, "environment": {...}, "hosts": 1, "each": [overrides of rank 0,
...], "script": "module:function" instead of a config}.

Like torchrun's agent, the parent ends all ranks when one has failed: by SIGTERM, and by SIGKILL those that do not end.
torchrun does that after 30 s, this parent when no machine needs so long.
"""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.waiting import PATIENCE, PAUSE

REPOSITORY = Path(__file__).resolve().parents[2]


def worlds(folder, *jobs):
    """Run jobs in a process of their own; returns what it printed about each."""
    path = Path(folder) / "jobs.json"
    path.write_text(json.dumps(jobs, default=str), encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "tests.pipelines.worlds", str(path)]
    result = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return [json.loads(line) for line in result.stdout.splitlines()]


def logs(job):
    """What the ranks of a job said, by rank."""
    return [
        (Path(job["folder"]) / f"rank{rank}.log").read_text(encoding="utf-8") for rank in range(job["world"])
    ]


def require_success(job):
    """A job together with its outcome ended well."""
    assert job["codes"] == [0] * job["world"], "\n".join(log[-3000:] for log in logs(job))


def main(path):
    import mlflow  # noqa: F401  before the forks
    import monai.bundle  # noqa: F401
    import torch

    import pipelines.training.workflow  # noqa: F401
    from tests.pipelines import small  # noqa: F401

    torch.set_num_threads(1)
    for job in json.loads(Path(path).read_text(encoding="utf-8")):
        Path(job["folder"]).mkdir(parents=True, exist_ok=True)
        port = free_port()
        print(json.dumps(attend([start(job, rank, port) for rank in range(job["world"])])), flush=True)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(job, rank, port):
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        log = os.open(Path(job["folder"]) / f"rank{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        local = job["world"] // job.get("hosts", 1)
        os.environ.update(
            RANK=str(rank),
            WORLD_SIZE=str(job["world"]),
            LOCAL_RANK=str(rank % local),
            LOCAL_WORLD_SIZE=str(local),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
        os.environ.update(job.get("environment", {}))
        run(job)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(job):
    if "script" in job:
        module, function = job["script"].split(":")
        getattr(importlib.import_module(module), function)(job)
        return
    from monai.bundle import run

    configs = [job["config"]] if isinstance(job["config"], str) else job["config"]
    each = job["each"][int(os.environ["RANK"])] if "each" in job else {}
    run("training", config_file=configs, **job.get("overrides", {}), **each)


def attend(children):
    codes, failed, killed = {}, None, []
    while len(codes) < len(children):
        for child in children:
            if child not in codes:
                process, status = os.waitpid(child, os.WNOHANG)
                if process:
                    codes[child] = os.waitstatus_to_exitcode(status)
        running = [child for child in children if child not in codes]
        if failed is None and any(codes.values()):
            failed = time.monotonic()
            for child in running:
                os.kill(child, signal.SIGTERM)
        if failed is not None and not killed and time.monotonic() - failed > PATIENCE:
            killed = running
            for child in running:
                os.kill(child, signal.SIGKILL)
        time.sleep(PAUSE)
    return {
        "codes": [codes[child] for child in children],
        "killed": [children.index(child) for child in killed],
    }


if __name__ == "__main__":
    main(sys.argv[1])
