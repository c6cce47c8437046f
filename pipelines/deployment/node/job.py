"""One series in the queue of a node: a folder with its images, what was made of them, and how often that began."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pipelines.utils.json_files import JsonError, read_json
from transforms.utils.files import replacing

IMAGES, RESULTS, LOG = "images", "results", "log.txt"
REASON = "why.txt"
_STATE = "state.json"


@dataclass(frozen=True)
class Job:
    """A series in the queue.

    Attributes:
        folder: holds everything of it; where the folder lies says how far it has come, see `pipelines.deployment.node.queue`.
    """

    folder: Path

    @property
    def name(self) -> str:
        """Its number in the queue, by date and time."""
        return self.folder.name.rpartition("-")[0]

    @property
    def key(self) -> str:
        """Which series it is, see `pipelines.deployment.node.queue.key_of`."""
        return self.folder.name.rpartition("-")[2]

    @property
    def images(self) -> Path:
        """The folder of the images, named by the SeriesInstanceUID."""
        return next(iter((self.folder / IMAGES).iterdir()))

    @property
    def results(self) -> Path:
        """What the prediction wrote."""
        return self.folder / RESULTS

    @property
    def series(self) -> str:
        """Its SeriesInstanceUID."""
        return self.images.name

    @property
    def instances(self) -> list[str]:
        """The SOPInstanceUIDs of its images."""
        return sorted(path.stem for path in self.images.iterdir())

    def size(self) -> int:
        """Bytes of all its files."""
        return size_of(self.folder)

    @property
    def starts(self) -> int:
        """How often its segmentation has begun."""
        return int(self._state().get("starts", 0))

    def note_starts(self, count: int) -> None:
        """Keep on disk how often the segmentation has begun."""
        self._write({**self._state(), "starts": count})

    @property
    def sent(self) -> list[str]:
        """Names of the files that the destination has."""
        return list(self._state().get("sent", []))

    def note_sent(self, name: str) -> None:
        """Keep on disk that the destination has a file."""
        self._write({**self._state(), "sent": [*self.sent, name]})

    def _state(self) -> dict:
        try:
            return dict(read_json(self.folder / _STATE))
        except (FileNotFoundError, JsonError):
            return {}

    def _write(self, state: dict) -> None:
        with replacing(self.folder / _STATE) as temporary:
            temporary.write_text(json.dumps(state), encoding="utf-8")


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
