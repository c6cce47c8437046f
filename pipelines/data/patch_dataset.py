"""Random patches from a patch store, and the order in which they are drawn."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate
from torch.utils.data.distributed import DistributedSampler

from pipelines.data.cases import CaseItem
from pipelines.data.patch_store import PatchStore
from pipelines.data.stored_case import StoredCase
from pipelines.distributed.process_group import is_distributed
from pipelines.utils.ranks import rank
from transforms.augmentation.on_device import (
    DeferredItem,
    PatchBatch,
    PatchItem,
    augments_on_device,
    collate_deferred,
)
from transforms.errors import SettingError

__all__ = ["PatchDataset", "PatchSampler"]

logger = logging.getLogger(__name__)


class PatchDataset(Dataset):
    """Patches of preprocessed cases; reads only the region of the patch.

    Everything random about a patch (its case, class, position and augmentation) is a pure function of `seed`
    and its index. It does not depend on the order in which patches are read, nor on the worker, process or
    machine. Index `epoch * num_patches + i` is patch `i` of an epoch; `PatchSampler` adds the offset of the
    epoch. With an ordinary sampler every epoch would have the same patches.

    - Cases: consecutive indices go through a random permutation of the cohort, then through another one. At any
      time the numbers of patches drawn from two cases therefore differ by at most 1.
    - Foreground: a share `foreground` of the patches is centred on a foreground voxel. These patches are spread
      evenly over the indices (k consecutive patches include k times the share, rounded up or down). The class is
      drawn uniformly among the foreground classes of the case, so that small classes are drawn as often as
      large ones. All other patches, and those of a case without foreground, have a uniformly random position; in a case with
      voxels to ignore they are centred on an annotated voxel, drawn uniformly, so no patch is without one.
    - A patch that would extend beyond the volume is moved inside. Along an axis where the volume is smaller than
      the patch, the volume is centred and padded with air and label 0.

    Args:
        data: the cases: "image", "label" (paths), "case" (id). Cases that are missing in the store are
            preprocessed by the constructor (`PatchStore.build`).
        patch_size: voxels per spatial axis. With two numbers, patches of volumes are parts of axial slices
            (x, y).
        num_patches: patches per epoch, over all ranks.
        preprocess: the definition of preprocessing; required unless `data` is a store, which has its own.
        root: folder of the patch store; required unless `data` is a store.
        foreground: share of patches centred on foreground, 0 to 1.
        class_weights: relative frequency of a class among the foreground classes of a case, default 1;
            with 0, patches are never centred on that class.
        labels: the label values that the dataset defines; other values are an error when a case is first
            preprocessed.
        transform: augmentation of the item's dictionary, a MONAI (random) dictionary transform or
            `transforms.augmentation.patch_augmentation.PatchAugmentation`. Its random state is set before
            each patch, from `seed` and the patch's index. If it has a method `source_size()`, a region of that
            size is read around the patch, so that the transform can rotate it and crop the patch itself.
        seed: seed of all random choices.
        augment_on: "workers": a loader worker augments each item when it reads it. "device": the worker only
            draws the augmentation's random parameters, and `pipelines.training.trainer.prepare_patches` applies
            it on the device of the training; batches must then be made by `collate` (as `patch_loader` does).
            "auto": on `device` if that is a GPU and `transform` is a `PatchAugmentation`, else in the workers.
        device: where the network is trained.
        num_workers, progress: see `PatchStore`.

    Raises:
        StoreError: if cases cannot be found or preprocessed; the message lists every one.
        SettingError: if a parameter is out of range, or the augmentation does not work with `augment_on`.

    An item holds "image": float32 (C, *patch_size), "label": (1, *patch_size) uint8 (int32 in a cohort
    stored with more than 255 classes), "case": the case's id. Without label files there is no "label". Labels
    have an eighth of the size of int64, which makes collating, pinning and copying faster; convert them on the GPU.

    If augmented on the device, "image" holds the int16 codes (C, *source) of the patch with its margin and "label"
    the label of the same region. "variation" holds the drawn augmentation, and "intensity" what is needed to convert
    the codes to intensities.
    """

    def __init__(
        self,
        data: Sequence[CaseItem] | PatchStore,
        patch_size: Sequence[int],
        num_patches: int,
        preprocess: Any = None,
        root: str | os.PathLike[str] | None = None,
        foreground: float = 1 / 3,
        class_weights: Mapping[int, float] | None = None,
        labels: Iterable[int] | Mapping[int, str] | None = None,
        transform: Callable[[PatchItem], Any] | None = None,
        seed: int = 0,
        num_workers: int | None = None,
        progress: bool = True,
        augment_on: str = "workers",
        device: torch.device | str | None = None,
    ) -> None:
        self.patch_size = tuple(int(p) for p in patch_size)
        if len(self.patch_size) not in (2, 3) or min(self.patch_size) < 1:
            raise SettingError(f"patch_size must be 2 or 3 positive numbers, got {patch_size}.")
        if num_patches < 1:
            raise SettingError(f"num_patches, the length of an epoch, must be positive, got {num_patches}.")
        if not 0 <= foreground <= 1:
            raise SettingError(f"foreground is a share of patches between 0 and 1, got {foreground}.")
        self.num_patches = int(num_patches)
        self.foreground = float(foreground)
        self.class_weights = {int(c): float(w) for c, w in (class_weights or {}).items()}
        if any(not w >= 0 for w in self.class_weights.values()):
            raise SettingError(f"class_weights must not be negative, got {class_weights}.")
        if seed < 0:
            raise SettingError(f"seed must not be negative, got {seed}.")
        self.transform = transform
        self.on_device = augments_on_device(augment_on, device, transform)
        self.seed = int(seed)
        if isinstance(data, PatchStore):
            self.store = data
        else:
            if preprocess is None or root is None:
                raise SettingError(
                    "a list of cases needs `preprocess` and `root`, the folder of the patch store."
                )
            self.store = PatchStore(root, preprocess, data, labels, num_workers, progress)
        self.store.build()
        self.preprocess = self.store.preprocess
        for remark in self.store.remarks() if rank() == 0 else ():
            logger.warning(remark)

    def __len__(self) -> int:
        return self.num_patches

    def __getitem__(self, index: int) -> Any:
        index = int(index)
        if index < 0:
            raise IndexError(f"a patch's index is epoch * num_patches + i and not negative, got {index}")
        epoch, i = divmod(index, self.num_patches)
        random = np.random.default_rng((self.seed, epoch, i, 0))
        case = self.store.case(self.case_index(index))
        # Always drawn, so that the patches with and without augmentation are the same.
        transform_seed = int(random.integers(2**32))
        transform: Any = self.transform
        if hasattr(transform, "set_random_state"):
            transform.set_random_state(seed=transform_seed)
        size = tuple(transform.source_size()) if hasattr(transform, "source_size") else self.patch_size
        start = self._start(case, random, self.is_foreground(index))
        item = self._read(case, start, size)
        if self.on_device:
            deferred: DeferredItem = {**item, "intensity": case.intensity, "variation": transform.draw()}
            return deferred
        return item if transform is None else transform(item)

    def collate(self, items: Sequence[Any]) -> PatchBatch:
        """A batch of items; if still to be augmented, their data are flat and under "deferred" (`DeferredPatches`)."""
        if self.on_device:
            return collate_deferred(items, self.preprocess.normalise)
        return default_collate(list(items))

    def case_index(self, index: int) -> int:
        """Which case the patch at an index is drawn from."""
        round_, place = divmod(index, len(self.store))
        return int(_permutation(self.seed, round_, len(self.store))[place])

    def is_foreground(self, index: int) -> bool:
        """Whether the patch at an index is to be centred on foreground."""
        epoch, i = divmod(index, self.num_patches)
        offset = _offset(self.seed, epoch)
        return int((i + 1) * self.foreground + offset) > int(i * self.foreground + offset)

    def _start(self, case: StoredCase, random: np.random.Generator, foreground: bool) -> tuple[int, ...]:
        """Index of the patch's first voxel along each axis of the volume; negative where the volume is smaller."""
        shape = case.spatial_shape
        size = self._volume_size(case, self.patch_size)
        room = [s - p for s, p in zip(shape, size, strict=True)]
        start = [int(random.integers(r + 1)) if r > 0 else r // 2 for r in room]
        classes = case.foreground if foreground else ()
        weights = np.array([self.class_weights.get(c, 1.0) for c in classes])
        if not weights.sum() > 0 and case.annotated:
            classes, weights = tuple(case.annotated), np.array([*case.annotated.values()], float)
        if weights.sum() > 0:
            label = classes[int(random.choice(len(classes), p=weights / weights.sum()))]
            centre = case.position(label, int(random.integers(case.num_positions(label))))
            start = [
                min(max(c - p // 2, 0), r) if r > 0 else s
                for c, p, r, s in zip(centre, size, room, start, strict=True)
            ]
        return tuple(start)

    def _volume_size(self, case: StoredCase, size: Sequence[int]) -> tuple[int, ...]:
        """A patch's size along the axes of the case: a 2D patch of a volume is one slice thick."""
        dims = len(case.spatial_shape)
        if dims == len(size):
            return tuple(size)
        if dims == 3:
            return (*size, 1)
        raise SettingError(f"patch_size {self.patch_size} has 3 axes, but case {case.id} is a 2D image.")

    def _read(self, case: StoredCase, start: Sequence[int], size: Sequence[int]) -> PatchItem:
        """The item of the patch at `start`, read with `size` voxels around the same centre."""
        patch = self._volume_size(case, self.patch_size)
        outer = self._volume_size(case, size)
        first = [s - (o - p) // 2 for s, o, p in zip(start, outer, patch, strict=True)]
        inside, target = [], []
        for f, o, n in zip(first, outer, case.spatial_shape, strict=True):
            a, b = max(f, 0), max(min(f + o, n), 0)
            inside.append(slice(a, b))
            target.append(slice(a - f, b - f))
        codes = case.read(inside)
        if codes.shape[1:] != outer:
            outside = np.reshape(self.preprocess.padding_code(case.intensity), (-1, *(1,) * len(outer)))
            full = np.empty((case.shape[0], *outer), np.int16)
            full[:] = outside
            full[(slice(None), *target)] = codes
            codes = full
        # int16 has half the size of float32, which makes collating, pinning and copying faster.
        image = (
            torch.from_numpy(codes) if self.on_device else self.preprocess.normalise(codes, case.intensity)
        )
        item: PatchItem = {"image": image.reshape(case.shape[0], *size), "case": case.id}
        if case.has_label:
            label = case.read_label(inside)
            if label.shape != outer:
                full = np.zeros(outer, label.dtype)
                full[tuple(target)] = label
                label = full
            if label.dtype == np.uint16:
                label = label.astype(np.int32)
            item["label"] = torch.from_numpy(label).reshape(1, *size)
        return item


class PatchSampler(DistributedSampler):
    """Indices of one epoch of a `PatchDataset` in order, distributed over the ranks.

    Rank r takes every `world`-th patch starting with the r-th. The k-th batches of all ranks together are
    therefore the k-th batch of a single process with a batch size `world` times as large. The order is not
    shuffled, because the patch of an index is random already.

    It is a `DistributedSampler`, so that MONAI's and other trainers call `set_epoch`. Without `set_epoch`, each
    iteration yields the next epoch.

    Args:
        dataset: the dataset, or its number of patches per epoch.
        rank, world: rank of this process and number of processes; default: from torch.distributed if it is
            initialised.

    If the number of patches is not divisible by the number of ranks, the remainder of each epoch is left out,
    because all ranks must take the same number of steps.

    Examples:
        >>> sampler = PatchSampler(6, rank=1, world=2)
        >>> sampler.set_epoch(0)
        >>> list(sampler)
        [1, 3, 5]
    """

    def __init__(self, dataset: Sized | int, rank: int | None = None, world: int | None = None) -> None:
        distributed = is_distributed()
        if rank is None:
            rank = torch.distributed.get_rank() if distributed else 0
        if world is None:
            world = torch.distributed.get_world_size() if distributed else 1
        length = dataset if isinstance(dataset, int) else len(dataset)
        if length < world:
            raise SettingError(
                f"{length} patches per epoch are fewer than the {world} processes; use more patches per epoch."
            )
        super().__init__(cast(Dataset, range(length)), world, rank, shuffle=False, drop_last=True)
        self.skip = 0

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Set the epoch that the next iteration yields.

        Args:
            epoch: number of the epoch, from 0.
            skip: number of this rank's patches to skip at its start, for a training resumed within an epoch.
        """
        self.epoch = int(epoch)
        self.skip = int(skip)

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * len(cast(Sized, self.dataset))
        start = first + self.rank + self.skip * self.num_replicas
        self.epoch += 1
        self.skip = 0
        return iter(range(start, first + self.total_size, self.num_replicas))


@lru_cache(maxsize=4)
def _permutation(seed: int, round_: int, length: int) -> np.ndarray:
    order = np.arange(length, dtype=np.int32)
    np.random.default_rng((seed, 0, round_, 1)).shuffle(order)
    return order


@lru_cache(maxsize=4)
def _offset(seed: int, epoch: int) -> float:
    return float(np.random.default_rng((seed, epoch, 0, 2)).random())
