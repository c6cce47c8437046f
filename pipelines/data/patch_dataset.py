"""Random patches out of a patch store, and the order in which they are drawn."""

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
    """Patches of preprocessed cases; reads no more of a volume than the patch.

    Everything random about a patch (its case, class, position and augmentation) is a pure function of `seed`
    and its index: it depends neither on the order in which patches are asked for nor on the worker, the
    process or the machine. Index `epoch * num_patches + i` is patch `i` of an epoch; `PatchSampler` counts
    the epochs. With a plain sampler every epoch would show the same patches.

    - Cases: index after index goes through a random permutation of the cohort, then through the next one, so
      that after any number of patches no case was drawn more than once more often than another.
    - Foreground: the share `foreground` of the patches, spread evenly over the indices (any k consecutive ones
      hold k times the share, rounded up or down), is centred on a voxel of a class drawn uniformly among the
      foreground classes of its case, so that a rare class is as frequent as a large one. All others, and
      those of a case without foreground, lie uniformly anywhere; of a case with voxels to ignore they are centred
      on a voxel that is annotated, drawn uniformly, so that no patch is without one.
    - A patch is moved inside the volume where it would stand over; along an axis where the volume is smaller
      than the patch the volume lies in the middle, padded with air and label 0.

    Args:
        data: the cases: "image", "label" (paths), "case" (id). Those missing in the store are
            preprocessed at construction (`PatchStore.build`).
        patch_size: voxels per spatial axis. Two numbers on a cohort of volumes mean axial slices (x,
            y).
        num_patches: patches per epoch, over all ranks.
        preprocess: the definition of preprocessing; required unless `data` is a store, whose own it
            then is.
        root: folder of the patch store; required unless `data` is a store.
        foreground: share of patches centred on foreground, 0 to 1.
        class_weights: relative frequency of a class among the foreground classes of a case, default 1;
            0 never centres on it.
        labels: the label values that the dataset names; others are an error when a case is first
            preprocessed.
        transform: augmentation of the item's dictionary, a MONAI (random) dictionary transform or
            `transforms.augmentation.patch_augmentation.PatchAugmentation`. Before each patch its random
            state is set from the patch's key. If it has a method `source_size()`, that many voxels are
            read around the patch, for it to rotate them and to cut the patch out itself.
        seed: seed of everything.
        augment_on: "workers": an item is augmented where it is read. "device": it is read and what
            happens to it is drawn, but done only by `pipelines.training.trainer.prepare_patches`, on
            the device of the training; batches are then made by `collate` (as `patch_loader` does).
            "auto": on `device` if that is a GPU and `transform` is a `PatchAugmentation`.
        device: where the network is trained.
        num_workers, progress: see `PatchStore`.

    Raises:
        StoreError: if cases cannot be found or preprocessed; the message lists every one.
        SettingError: if a parameter is out of range, or the augmentation cannot be done where
            `augment_on` says.

    An item holds "image": float32 (C, *patch_size), "label": (1, *patch_size) uint8 (int32 in a cohort
    stored with more than 255 classes), "case": the case's id. Without label files there is no "label". uint8
    is an eighth of int64 for collating, pinning and copying; convert on the GPU.

    Augmented on the device, "image" is the int16 codes (C, *source) of the patch with its margin, "label" goes with
    it, "variation" says what to do with both and "intensity" what the codes stand for.
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
        # drawn in any case: with and without augmentation the patches are the same
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
        """A batch of items; those still to be augmented come flat and with "deferred", see `DeferredPatches`."""
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
        """First voxel of the patch in the volume, negative where the volume is smaller; one per volume axis."""
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
        """The item of a patch at `start`, of `size` voxels around the same centre."""
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
        # int16 is half of float32 for collating, pinning and copying.
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
    """Indices of one epoch of a `PatchDataset` in order, shared out among the ranks.

    Rank r takes every `world`-th patch starting with the r-th. So the k-th batches of all ranks together are
    the k-th batch of a single process with a batch size `world` times as large, whatever the batch size. The
    order is not shuffled: what an index stands for is random already.

    It is a `DistributedSampler`, so that MONAI's and other trainers call `set_epoch` by themselves. Without
    `set_epoch`, each iteration goes on to the next epoch.

    Args:
        dataset: the dataset, or its number of patches per epoch.
        rank, world: this process and the number of processes; default: from torch.distributed where
            initialised.

    If the number of patches does not divide by the number of ranks, the remainder of each epoch is left out:
    the ranks must do equally many steps.

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
            raise SettingError(f"{length} patches per epoch cannot be shared among {world} processes.")
        super().__init__(cast(Dataset, range(length)), world, rank, shuffle=False, drop_last=True)
        self.skip = 0

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """The epoch, from 0, that the next iteration yields, and how many of its patches this rank leaves out.

        They are those before the place where a training goes on; only the next iteration leaves any out.
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
