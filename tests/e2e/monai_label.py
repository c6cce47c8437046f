"""MONAI Label's own server with a packaged bundle, by the commands of docs/use_a_model.md, asked over HTTP."""

import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from tests.e2e.clients import client_of_page, site_packages
from tests.e2e.commands import EVERYWHERE
from tests.e2e.page_commands import EXAMPLES, page_commands, run_commands
from tests.e2e.servers import free_port
from tests.waiting import wait_for

# A build of torch for the CPU lacks operators that torchvision from PyPI describes as it is imported.
SHIM = """
import importlib.abc, sys


class Shim(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            from torch import library, version
            if version.cuda is None:
                self.kept = library.Library("torchvision", "DEF")
                for each in ("nms", "qnms"):
                    self.kept.define(f"{each}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None


sys.meta_path.insert(0, Shim())
"""


class Server:
    """MONAI Label's monaibundle app with one bundle.

    Args:
        start: the page's command, which is run in `folder`.
        ask: the page's request for a label.
        folder: for MLflow's database and what the server says.
    """

    def __init__(self, start: str, ask: str, folder: Path) -> None:
        self.port, self.folder, self.log = free_port(), folder, folder / "server.log"
        self.database = f"sqlite:///{folder / 'mlflow.db'}"
        self.command = f"exec {start.strip()} --host 127.0.0.1 --port {self.port}"
        self.request = ask.replace(":8000", f":{self.port}")
        assert self.request != ask
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": self.database}
        with self.log.open("a", encoding="utf-8") as out:
            self.process = subprocess.Popen(
                ["sh", "-c", self.command],
                cwd=self.folder,
                stdout=out,
                stderr=out,
                env=environment,
                start_new_session=True,
            )
        wait_for(self.is_up, self.process, said=lambda: self.log.read_text(encoding="utf-8")[-3000:])

    def is_up(self) -> bool:
        try:
            self.ask("/info/")
        except urllib.error.URLError:
            return False
        return True

    def ask(self, path: str, body: bytes | None = None, kind: str = "", method: str | None = None) -> bytes:
        headers = {"Content-Type": kind} if kind else {}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data=body, headers=headers, method=method
        )
        with urllib.request.urlopen(request, timeout=600) as answer:
            return answer.read()

    def info(self) -> Any:
        return json.loads(self.ask("/info/"))

    def infer(self, image: str, target: Path) -> np.ndarray:
        named = {"image=ct&": f"image={image}&", "labels.nii.gz": str(target)}
        request = self.request
        for text, own in named.items():
            assert text in request
            request = request.replace(text, own)
        run_commands(request, self.folder)
        return np.asarray(nib.load(target).dataobj)

    def label(self, image: str, path: Path) -> None:
        body, kind = form({"params": "{}"}, {"label": path})
        self.ask(f"/datastore/label?image={image}&tag=final", body, kind, "PUT")

    def train(self, **wishes: Any) -> None:
        body = json.dumps({"device": "cpu", **wishes}).encode()
        self.ask("/train/lungs?run_sync=true", body, "application/json")

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(60)


def form(fields: dict[str, str], files: dict[str, Path]) -> tuple[bytes, str]:
    """A form as a browser sends it, and its content type."""
    border = "border-of-the-form"
    parts = []
    for name, value in fields.items():
        parts.append(
            f'--{border}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        )
    for name, path in files.items():
        head = f'--{border}\r\nContent-Disposition: form-data; name="{name}"; filename="{path.name}"\r\n\r\n'
        parts.append(head.encode() + path.read_bytes() + b"\r\n")
    return b"".join(parts) + f"--{border}--\r\n".encode(), f"multipart/form-data; boundary={border}"


def start_server(bundle: Path, studies: Path, folder: Path, clients: Path) -> Server:
    """Start MONAI Label's own app in a folder, with a bundle among its models.

    Args:
        bundle: as it is packaged.
        studies: folder with the images.
        folder: for the app, MLflow's database and what the server says.
        clients: for the environment, see `tests.e2e.clients.client_of_page`.
    """
    replaced = {**EXAMPLES, "BUNDLE": bundle, "IMAGES": studies}
    install, begin, ask = page_commands("use_a_model.md", "MONAI Label", replaced)
    python = client_of_page("monai_label", install, clients)
    (site_packages(python) / "sitecustomize.py").write_text(SHIM, encoding="utf-8")
    (folder / "monai_label").symlink_to(python.parents[1])
    copy, start = begin.splitlines()
    run_commands(copy, folder)
    # After so short a training classes are nearly equal in many voxels, which bf16 rounds to either.
    config = folder / "app" / "model" / "lungs" / "configs" / "inference.json"
    given = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps(given | EVERYWHERE), encoding="utf-8")
    return Server(start, ask, folder)
