"""Two "hosts" on one machine: two torchruns that meet over loopback and share no folder."""

import contextlib
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.training.checkpoints import LAST, load_state
from tests.conftest import make_dataset
from tests.e2e.commands import INTERRUPTIBLE, SMALL, Workplace
from tests.waiting import wait_for


class Hosts:
    """Hosts with bundle folder, patch store, MLflow database and copy of the dataset of their own."""

    def __init__(self, folder: Path, count: int = 2, **dataset: int) -> None:
        data = make_dataset(folder / "data", size=32, **dataset)
        self.places = [Workplace(folder / f"host{number}", database=False) for number in range(count)]
        self.data = [folder / f"host{number}" / "data" for number in range(count)]
        for copy in self.data:
            # Files copied to another host need not keep their times.
            shutil.copytree(data, copy, copy_function=shutil.copyfile)

    @contextlib.contextmanager
    def started(
        self,
        meeting: list[str],
        processes: int,
        second: dict[str, object] | None = None,
        stop: dict[str, str] | None = None,
        **overrides: object,
    ) -> Iterator[list[subprocess.Popen]]:
        """torchrun on each while it runs.

        Args:
            meeting: how they find each other, with {host} for the host's number.
            second: overrides of the second host alone.
            stop: variables of `tests.pipelines.small.Interrupt`.
        """
        with contextlib.ExitStack() as stack:
            found = []
            for number, (place, data) in enumerate(zip(self.places, self.data, strict=True)):
                words = [word.format(host=number) for word in meeting]
                given = SMALL | {"dataset_dir": data} | overrides | (second if second and number else {})
                command = ["-m", "torch.distributed.run", f"--nnodes={len(self.places)}"]
                command += [f"--nproc_per_node={processes}", *words]
                command += place.training("r2unet", "multi_gpu_train.json", INTERRUPTIBLE, **given)
                log = stack.enter_context((place.folder / "log").open("a"))
                options = {"stdout": log, "stderr": subprocess.STDOUT}
                found.append(stack.enter_context(place.started(command, stop or {}, **options)))
            yield found

    def run(self, meeting: list[str], processes: int, **overrides: object) -> list[int]:
        with self.started(meeting, processes, **overrides) as started:
            return [process.wait() for process in started]

    @property
    def said(self) -> list[str]:
        return [(place.folder / "log").read_text() for place in self.places]


def port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def c10d() -> list[str]:
    return ["--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port()}", "--rdzv_id=test"]


def static() -> list[str]:
    return ["--node_rank={host}", "--master_addr=127.0.0.1", f"--master_port={port()}"]


def require_first_alone_writes(hosts: Hosts) -> None:
    """Models and the one MLflow run are of the first host; each host has a patch store of its own."""
    first = [place for place in hosts.places if (place.folder / "mlflow.db").exists()]
    assert len(first) == 1
    assert {"model.pt", "model.json", LAST} <= {path.name for path in (first[0].root / "models").iterdir()}
    (run,) = first[0].runs("r2unet")
    assert run.info.status == "FINISHED"
    for place in hosts.places:
        assert list((place.folder / "store").glob("*/*/meta.json"))
        if place is not first[0]:
            assert not place.root.exists()


@pytest.mark.slow
def test_two_hosts_that_share_no_folder_train_together(tmp_path: Path) -> None:
    """One validation case: the second host has none."""
    hosts = Hosts(tmp_path, training=2, validation=1)
    codes = hosts.run(c10d(), 1, epochs=1)
    assert codes == [0, 0], "\n".join(text[-4000:] for text in hosts.said)
    require_first_alone_writes(hosts)


@pytest.mark.slow
def test_hosts_of_several_processes_stop_and_go_on_from_the_first_hosts_checkpoint(tmp_path: Path) -> None:
    """Two processes each; SIGTERM to both torchruns, as a batch system sends it; the same commands go on."""
    hosts = Hosts(tmp_path, training=2, validation=3)
    settings = {"patches_per_epoch": 24, "epochs": 1}
    last, reached = hosts.places[0].root / "models" / LAST, tmp_path / "reached"
    stop = {"SMALL_STOP_AT": "2", "SMALL_STOP_BY": str(reached)}
    with hosts.started(static(), 2, stop=stop, **settings) as started:
        wait_for(lambda: all(Path(f"{reached}{rank}").is_file() for rank in range(4)), *started)
        for process in started:
            process.terminate()
        assert all(process.wait() != 0 for process in started)
    assert load_state(last)["iteration"] == 2
    hosts.places[0].require_killed("r2unet", "\n".join(text[-4000:] for text in hosts.said))
    codes = hosts.run(static(), 2, **settings)
    assert codes == [0, 0], "\n".join(text[-4000:] for text in hosts.said)
    assert "resuming after epoch 0 of 1, in epoch 1 after iteration 2 of 6" in hosts.said[0]
    assert load_state(last)["finished"]
    (run,) = hosts.places[0].runs("r2unet")
    assert run.info.status == "FINISHED"
    assert not hosts.places[1].root.exists()


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["another knob", "another file", "a case is missing"])
def test_hosts_that_would_not_train_the_same_are_told(wrong: str, tmp_path: Path) -> None:
    hosts = Hosts(tmp_path, training=2, validation=1)
    if wrong == "another file":
        files = sorted((hosts.data[1] / "images").glob("training*"))
        shutil.copyfile(files[0], files[1])
        label = sorted((hosts.data[1] / "labels").glob("training*"))
        shutil.copyfile(label[0], label[1])
    elif wrong == "a case is missing":
        next((hosts.data[1] / "images").glob("training*")).unlink()
    second = {"learning_rate": 0.5} if wrong == "another knob" else None
    assert all(code != 0 for code in hosts.run(static(), 1, second=second))
    said = "\n".join(hosts.said)
    expected = {
        "another knob": r"do not train the same \(learning_rate: .* on rank 0, .* on rank 1\)",
        "another file": r"do not train the same \(the content of the training cases",
        "a case is missing": "no such file or folder",
    }[wrong]
    assert re.search(expected, said), said[-6000:]
    assert said.count("error:") >= 1


@pytest.mark.slow
def test_one_process_goes_on_where_two_stopped(tmp_path: Path) -> None:
    """The other way round than usual: with the same patches in a batch, the epoch's other half."""
    place, data = Workplace(tmp_path), make_dataset(tmp_path / "data", training=2, validation=1, size=32)
    settings = SMALL | {"dataset_dir": data, "epochs": 1, "patches_per_epoch": 10}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    words = [*torchrun, *place.training("r2unet", "multi_gpu_train.json", INTERRUPTIBLE, **settings)]
    last, reached = place.root / "models" / LAST, tmp_path / "reached"
    with place.started(words, {"SMALL_STOP_AT": "3", "SMALL_STOP_BY": str(reached)}) as process:
        wait_for(lambda: all(Path(f"{reached}{rank}").is_file() for rank in range(2)), process)
        process.terminate()
        assert process.wait() != 0
    assert load_state(last)["inside"] == 3
    result = place.run(place.training("r2unet", **settings | {"batch_size": 2, "resume": "changed"}))
    assert "in epoch 1 after iteration 3 of 5" in result.stdout
    assert load_state(last)["iteration"] == 5
    assert load_state(last)["lr_scheduler"]["last_epoch"] == 5
    runs = {run.info.status: run for run in place.runs("r2unet")}
    assert runs["FINISHED"].data.tags["segbundles.continues"] == runs["KILLED"].info.run_id
