"""Seconds from the start of a command to its first iteration or window, and from the last one to the process's end.

    python -m benchmarks.startup                               # about three minutes
    python -m benchmarks.startup --bundles r2unet --rounds 3   # medians of three starts
    python -m benchmarks.startup --nnunet python3              # a Python that has nnunetv2, to compare imports
    python -m benchmarks.startup --parts help imports --rounds 15 --tree ../before   # against another checkout

- training: `python -m monai.bundle run training` on the demo, to the end of its first iteration: first without a patch
  store and MLflow database, which are then created, then with both. By part, see `benchmarks.stopwatch`.
- MONAI: a bundle of MONAI's components on the same CT: LoadImage, Spacing, crop, UNet, SupervisedTrainer,
  MLFlowHandler.
- the end: a training of one epoch with its validation, from the last iteration to the end of the process.
- commands of `python -m pipelines`: predict to the first window, the others to their end.
- help: the commands whose answer should come at once.
- imports: those of this project in addition to torch and MONAI's bundle runner, in a separate process without
  stopwatch.

With `--tree` the processes of help and imports run in both checkouts in turn, each round in the other order.

Processor seconds are those of the process up to that time; in the table, those of the main thread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.startup_parts import ENDING, MONAI_CONFIG, PARTS, STARTING

REPOSITORY = Path(__file__).resolve().parents[1]
TRAINED = "pipelines.training.trainer:SegTrainer._iteration"
DEMO_CASE = "data/demo/imagesTr/ctchest.nrrd"
SMALL = {"epochs": 1, "patches_per_epoch": 2, "val_interval": 1}
COMMANDS = ("predict", "check", "evaluate", "compare", "sync")
RUNNER = "import torch, monai.bundle, fire"
# By the names that bundles use, which every version has wherever their modules lie.
TRAINING = "import networks\nfrom pipelines import SegLoss, Training, executed_config\nfrom transforms import PatchAugmentation"


Process = tuple[Sequence[str], Path]
"""Words of a command line, and the checkout whose root it runs in."""


class Bench:
    """Starts processes with models, patch store and MLflow database in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "SEGBUNDLES_SPOOL": str(folder / "spool"),
        }

    def timed(self, functions: dict[str, str], stop: str, words: Sequence[str]) -> dict[str, Any]:
        """Run `python -m WORDS` with a stopwatch; "exit" are wall and processor seconds from its last line to the end."""
        result = self.folder / "result.json"
        result.unlink(missing_ok=True)
        command = ["-m", "benchmarks.stopwatch", str(result), json.dumps(functions), stop, *words]
        _, spent, ended = self._run([sys.executable, *command], STOPWATCH_STARTED=repr(time.time()))
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return {**found, "exit": [ended - found["ended"], max(0.0, spent - found["spent"])]}

    def plain(self, words: Sequence[str], tree: Path = REPOSITORY) -> tuple[float, float]:
        """Wall and processor seconds of `WORDS` in the root of a checkout, from start to end."""
        return self._run(words, tree, PYTHONPATH=str(tree))[:2]

    def in_turn(self, processes: dict[str, Process], rounds: int) -> dict[str, list[float]]:
        """Medians of wall and processor seconds by name, after a round that only fills caches."""
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in processes}
        for turn in range(rounds + 1):
            for name, (words, tree) in list(processes.items())[:: 1 if turn % 2 else -1]:
                took = self.plain(words, tree)
                if turn:
                    runs[name].append(took)
        return {
            name: [statistics.median(run[i] for run in took) for i in (0, 1)] for name, took in runs.items()
        }

    def _run(self, words: Sequence[str], tree: Path = REPOSITORY, **more: str) -> tuple[float, float, float]:
        began, before = time.time(), os.times()
        done = subprocess.run(
            words,
            cwd=tree,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
        ended, after = time.time(), os.times()
        if done.returncode:
            raise SystemExit(f"{' '.join(words)[:300]} failed:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
        spent = after.children_user - before.children_user + after.children_system - before.children_system
        return ended - began, spent, ended

    def training(self, bundle: str, **overrides: Any) -> list[str]:
        given = {
            "bundle_root": self.folder / bundle,
            "store_dir": self.folder / "store",
            "resume": "new",
            **overrides,
        }
        words = ["monai.bundle", "run", "training", "--config_file", f"bundles/{bundle}/train.json"]
        return words + [word for key, value in given.items() for word in (f"--{key}", str(value))]


def _medians(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = {part: None for run in runs for part in run["parts"]}
    parts = {
        name: [statistics.median(run["parts"].get(name, [0, 0])[i] for run in runs) for i in (0, 1)]
        for name in names
    }
    return {
        "parts": parts,
        **{k: statistics.median(r[k] for r in runs) for k in ("wall", "processor")},
    }


def _table(columns: dict[str, dict[str, Any]], order: Sequence[str]) -> str:
    lines = [f"| part: wall (processor) | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for part in order:
        cells = [run["parts"].get(part) for run in columns.values()]
        if any(cell and max(cell) >= 0.0005 for cell in cells):
            shown = [f"{c[0]:.3f} ({c[1]:.3f})" if c else "" for c in cells]
            lines.append(f"| {part} | {' | '.join(shown)} |")
    total = [f"**{run['wall']:.2f} ({run['processor']:.2f})**" for run in columns.values()]
    lines.append(f"| all | {' | '.join(total)} |")
    return "\n".join(lines)


def _trainings(bench: Bench, bundles: Sequence[str], rounds: int) -> list[str]:
    config = bench.folder / "monai.json"
    config.write_text(
        json.dumps(MONAI_CONFIG | {"tracking_uri": f"sqlite:///{bench.folder / 'monai.db'}"}),
        encoding="utf-8",
    )
    monai = ["monai.bundle", "run", "training", "--config_file", str(config)]
    columns: dict[str, dict[str, Any]] = {}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in (*bundles, "MONAI")}
    columns["first of all"] = bench.timed(STARTING, TRAINED, bench.training(bundles[0]))
    for name in bundles[1:]:
        bench.timed(STARTING, TRAINED, bench.training(name))
    bench.timed(STARTING, "monai.engines.trainer:SupervisedTrainer._iteration", monai)
    for _ in range(rounds):
        for name in runs:
            if name == "MONAI":
                stop, words = "monai.engines.trainer:SupervisedTrainer._iteration", monai
            else:
                stop, words = TRAINED, bench.training(name)
            runs[name].append(bench.timed(STARTING, stop, words))
    columns |= {name: _medians(found) for name, found in runs.items()}
    print(f"## From the command to the end of the first iteration, seconds\n\n{_table(columns, PARTS)}\n")
    peer = columns["MONAI"]
    return [
        f"RESULT start_{kind}_{name} ours={columns[name][kind]:.2f} peer={peer[kind]:.2f} "
        f"ratio={columns[name][kind] / peer[kind]:.2f}"
        for name in bundles
        for kind in ("wall", "processor")
    ]


def _end(bench: Bench, bundle: str) -> list[str]:
    run = bench.timed(ENDING, "", bench.training(bundle, **SMALL))
    run["parts"]["end of the process"] = run["exit"]
    run["wall"] += run["exit"][0]
    run["processor"] += run["exit"][1]
    order = [*dict.fromkeys(ENDING.values()), "end of the process"]
    spent = sum(run["parts"].get(part, [0.0])[0] for part in order if part not in ("iterations", "training"))
    print(f"## A training of 2 iterations and one validation, seconds\n\n{_table({bundle: run}, order)}\n")
    return [
        f"RESULT end_of_training_without_validation ours={spent - run['parts']['validation'][0]:.2f} peer=nan ratio=nan",
        f"RESULT end_of_the_process_wall ours={run['exit'][0]:.2f} peer=nan ratio=nan",
        f"RESULT end_of_the_process_processor ours={run['exit'][1]:.2f} peer=nan ratio=nan",
    ]


def _commands(bench: Bench, bundle: str) -> list[str]:
    python, rows, lines = [sys.executable, "-m", "pipelines"], [], []
    for run in ("one", "two"):  # for compare
        bench.plain([sys.executable, "-m", *bench.training(bundle, run_name=run, **SMALL)])

    def say(name: str, wall: float, processor: float) -> None:
        rows.append(f"| `{name}` | {wall:.2f} | {processor:.2f} |")
        lines.append(f"RESULT {_key(name)} ours={wall:.2f} peer=nan ratio=nan")

    say("check", *bench.plain([*python, "check", "data/demo"]))
    say("compare", *bench.plain([*python, "compare", "--experiment", bundle, "--no-log", "one", "two"]))
    given = ["pipelines", "predict", DEMO_CASE, "--bundle", f"bundles/{bundle}", "--overwrite"]
    given += [
        "--model",
        str(bench.folder / bundle / "models/model.pt"),
        "-o",
        str(bench.folder / "predicted"),
    ]
    network = {"r2unet": "networks.r2unet:R2UNet.forward", "upernet": "networks.upernet:UPerNet.forward"}
    found = bench.timed({network[bundle]: "first window"}, network[bundle], given)
    say("predict, to the first window", found["wall"], found["processor"])
    say("predict, to its end", *bench.plain([sys.executable, "-m", *given]))
    head = "| command of `python -m pipelines` | wall | processor |\n|---|---|---|\n"
    print("## Commands, seconds\n\n" + head + "\n".join(rows) + "\n")
    return lines


def _help(bench: Bench, rounds: int, other: Path | None) -> list[str]:
    commands = {name: [*name.split()] for name in ("--help", *(f"{command} --help" for command in COMMANDS))}
    commands["check --headers-only"] = ["check", str(REPOSITORY / "data/demo"), "--headers-only"]
    processes: dict[str, Process] = {}
    for name, words in commands.items():
        for tree in _trees(other):
            processes[_named(name, tree)] = ([sys.executable, "-m", "pipelines", *words], tree)
    found = bench.in_turn(processes, rounds)
    print("## Commands that should answer at once, seconds\n\n" + _list("`python -m pipelines`", found, 3))
    return [_result(_key(name), name, found, other, 3) for name in commands]


def _imports(bench: Bench, rounds: int, nnunet: str | None, other: Path | None) -> list[str]:
    ours, peer = "and all that a training of ours imports", "nnunetv2.run.run_training"
    processes: dict[str, Process] = {
        "torch": ([sys.executable, "-c", "import torch"], REPOSITORY),
        "torch and MONAI's bundle runner": ([sys.executable, "-c", RUNNER], REPOSITORY),
    }
    for tree in _trees(other):
        processes[_named(ours, tree)] = ([sys.executable, "-c", f"{RUNNER}\n{TRAINING}"], tree)
    if nnunet:
        processes[peer] = ([nnunet, "-c", f"import {peer}"], REPOSITORY)
    found = bench.in_turn(processes, rounds)
    print("## Imports, seconds\n\n" + _list("a process that imports", found, 2))
    spent, theirs = found[ours][1], found["torch and MONAI's bundle runner"][1]
    lines = [f"RESULT imports_processor ours={spent:.2f} peer={theirs:.2f} ratio={spent / theirs:.3f}"]
    if nnunet:
        theirs = found[peer][1]
        lines.append(f"RESULT imports_nnunet ours={spent:.2f} peer={theirs:.2f} ratio={spent / theirs:.2f}")
    if other:
        lines.append(_result("imports_tree", ours, found, other, 2))
    return lines


def _trees(other: Path | None) -> list[Path]:
    return [REPOSITORY, *([other] if other else [])]


def _named(name: str, tree: Path) -> str:
    return name if tree == REPOSITORY else f"{name}, in {tree}"


def _key(name: str) -> str:
    return "_".join("".join(c if c.isalnum() else " " for c in name).split())


def _list(head: str, found: dict[str, list[float]], digits: int) -> str:
    rows = [f"| {name} | {wall:.{digits}f} | {spent:.{digits}f} |" for name, (wall, spent) in found.items()]
    return "\n".join([f"| {head} | wall | processor |", "|---|---|---|", *rows, ""])


def _result(key: str, name: str, found: dict[str, list[float]], other: Path | None, digits: int) -> str:
    """Wall seconds of a process, beside those of the other checkout where there is one."""
    ours, theirs = found[name][0], found[_named(name, other)][0] if other else float("nan")
    return f"RESULT {key} ours={ours:.{digits}f} peer={theirs:.{digits}f} ratio={ours / theirs:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundles", nargs="+", choices=("r2unet", "upernet"), default=["r2unet", "upernet"])
    parser.add_argument("--rounds", type=int, default=1)
    parts = ("training", "end", "commands", "help", "imports")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--nnunet", metavar="PYTHON", help="an interpreter that has nnunetv2")
    parser.add_argument("--tree", metavar="DIR", type=Path, help="another checkout, for help and imports")
    options = parser.parse_args()
    other = options.tree.resolve() if options.tree else None
    if other and not (other / "pipelines" / "__main__.py").is_file():
        parser.error(f"{options.tree} is no checkout (it has no pipelines/__main__.py)")
    lines = []
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))
        if "training" in options.parts:
            lines += _trainings(bench, options.bundles, options.rounds)
        if "end" in options.parts:
            lines += _end(bench, options.bundles[0])
        if "commands" in options.parts:
            lines += _commands(bench, options.bundles[0])
        if "help" in options.parts:
            lines += _help(bench, options.rounds, other)
        if "imports" in options.parts:
            lines += _imports(bench, options.rounds, options.nnunet, other)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
