"""What engines iterate over: batches of patches for training, whole cases for everything else."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from pipelines.config.executed import problem
from pipelines.data.patch_dataset import PatchDataset, PatchSampler
from pipelines.data.patch_store import PatchStore, reading
from pipelines.distributed.process_group import is_distributed
from pipelines.utils.cores import cores_of_this_process
from pipelines.utils.ranks import rank, world_size
from pipelines.utils.shared_memory import workers_that_fit
from transforms.io.header import Header
from transforms.io.readers import read_label
from transforms.preprocess import Preprocess

logger = logging.getLogger(__name__)


class VolumeDataset(Dataset):
    """Preprocessed images with, where there is one, the label map on the grid of its file.

    An item holds "image": float32 (1, C, *grid), "geometry": plain dict, "case": id, "path": the image's
    path, and "label": MetaTensor (1, *file shape) of integer classes when the case has a label. With
    `problems_as_items` set, a case that cannot be read is an item of "case" and "problem" (why), not an error.

    Args:
        data: cases: "image", optionally "label" (paths), "case" (id), "series" and "allow" (how to read DICOM).
        preprocess: the definition of preprocessing.
        root: folder of a patch store; given, images come preprocessed out of it (built at once if missing).
        labels: class ids and names of the dataset. Other values are an error, see `PatchStore`, and DICOM labels
            get their class ids by the names.
        num_workers: processes that build the store.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        preprocess: Preprocess,
        root: str | os.PathLike[str] | None = None,
        labels: Mapping[int, str] | None = None,
        num_workers: int | None = None,
    ) -> None:
        self.data = list(data)
        self.preprocess = preprocess
        self.labels = labels
        self.problems_as_items = False
        self.store: PatchStore | None = None
        if root is not None and self.data:
            self.store = PatchStore(root, preprocess, self.data, labels, num_workers).build()
            for remark in self.store.remarks(training=False) if rank() == 0 else ():
                logger.warning(remark)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            return self._item(index)
        except Exception as error:  # whatever is wrong with one case must not cost the others
            if not self.problems_as_items:
                raise
            item = self.data[index]
            return {"case": item["case"], "problem": problem(error, item["image"])}

    def _item(self, index: int) -> dict[str, Any]:
        item = self.data[index]
        if self.store is not None:
            case = self.store.case(index)
            codes, geometry, intensity = (
                case.read([slice(None)] * len(case.spatial_shape)),
                case.geometry,
                case.intensity,
            )
        else:
            prepared = self.preprocess.image(item["image"], **reading(item))
            codes, geometry, intensity = prepared.codes, prepared.geometry.to_dict(), prepared.intensity
        result: dict[str, Any] = {
            "image": self.preprocess.normalise(codes, intensity)[None],
            "geometry": geometry,
            "padding": self.preprocess.padding_value(intensity),
            "case": item["case"],
            "path": item["image"],
        }
        if item.get("label"):
            grid = Header(tuple(geometry["shape"]), 1, np.asarray(geometry["affine"]))
            result["label"] = read_label(item["label"], grid, self.labels, image=item["image"])
        return result


def only_item(batch: Sequence[Any]) -> Any:
    """Collate for batches of one whole case: the case itself."""
    return batch[0]


def shard(items: Sequence[Any]) -> list[Any]:
    """The part of `items` that this process of a distributed run works on."""
    if is_distributed():
        return list(items)[torch.distributed.get_rank() :: torch.distributed.get_world_size()]
    return list(items)


def volume_loader(dataset: VolumeDataset, num_workers: int = 0) -> DataLoader:
    """One case at a time, in order."""
    return DataLoader(
        dataset,
        batch_size=1,
        num_workers=num_workers,
        multiprocessing_context=_start_method(num_workers),
        collate_fn=only_item,
        generator=torch.Generator(),
    )


def patch_loader(dataset: PatchDataset, batch_size: int, num_workers: int | str = "auto") -> DataLoader:
    """Batches of patches, shared out over the ranks, with workers that stay alive between epochs.

    Raises:
        SharedMemoryError: so many workers need more shared memory than there is.
    """
    workers = loader_workers(num_workers)
    workers = workers_that_fit(workers, dataset, batch_size, asked=num_workers != "auto")
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=PatchSampler(dataset),
        num_workers=workers,
        multiprocessing_context=_start_method(workers),
        collate_fn=dataset.collate,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=outlive_signals,
        # A loader draws a seed for its workers, persistent ones once and others every epoch. From the default
        # generator it would shift dropout, and a resumed training would differ from one never stopped.
        generator=torch.Generator(),
    )


def _start_method(workers: int) -> str | None:
    """How a loader's worker processes start: on Linux by fork with every Python, elsewhere as Python chooses.

    Python 3.14 would start them out of a fork server, which dies of a signal to the whole group and takes them
    along (see `outlive_signals`), and each would import torch and MONAI again: seconds for every pass.
    """
    return "fork" if workers and sys.platform == "linux" and hasattr(os, "fork") else None


def outlive_signals(worker: int) -> None:
    """Let a loader worker go on when a whole group of processes is asked to end, for the trainer to stop well.

    Ctrl-C, systemd and batch systems signal the workers too. Without them the iteration that is going on would
    fail instead of ending in a checkpoint. The parent's own SIGTERM is obeyed; a dead parent is noticed by torch.
    Windows sends none to a group.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # Linux
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # type: ignore[attr-defined]
        threading.Thread(target=_await_parent, name="signals", daemon=True).start()
    elif hasattr(os, "setpgrp"):
        # macOS does not tell who sent a signal, but has nothing that signals more than a group.
        os.setpgrp()


def _await_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():  # type: ignore[attr-defined]
        pass
    os._exit(0)


def loader_workers(requested: int | str) -> int:
    """Number of worker processes: the number asked for, or with "auto" what the machine suggests.

    None on a machine of few cores, where workers would only take time from the training; else up to 8,
    leaving a core to the process itself.
    """
    if requested != "auto":
        return int(requested)
    share = cores_of_this_process()
    return 0 if share <= 2 else min(8, share - 1)


def steps_per_epoch(num_patches: int, batch_size: int, accumulation: int = 1) -> int:
    """Optimiser steps of one epoch, the same on every rank."""
    share = num_patches // world_size()
    iterations = -(-share // batch_size)
    return -(-iterations // accumulation)
