"""Whether the processes of a distributed training train the same, each with files of its own host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.data.cases import Dataset
from pipelines.data.patch_dataset import PatchDataset
from pipelines.distributed.process_group import DistributedError, is_distributed, of_all_ranks
from pipelines.training.resume import DATA, differences
from pipelines.utils.provenance import code_version
from pipelines.utils.ranks import local_rank

_CODE, _CONTENT = "the code (git commit)", "the content of the training cases (digest)"


def agreed(work: Mapping[str, str], data: Dataset, patches: Any) -> dict[str, str]:
    """What makes the training the one it is, by rank 0, after all ranks have compared theirs.

    Every host may have a copy of its own of code, config, dataset and patch store. Paths and times of the dataset may
    differ between them, its cases and their content may not: each rank takes every n-th of what it believes to be
    the same list. Called by all ranks together.

    Args:
        work: `pipelines.training.resume.work_of` this process.
        data: the dataset.
        patches: what patches are drawn from; a `PatchDataset` knows its content.

    Raises:
        DistributedError: they differ; the message says in what.
    """
    if not is_distributed():
        return dict(work)
    told = {name: value for name, value in work.items() if name not in ("dataset_dir", DATA)}
    for split in ("training", "validation"):
        told[f"the {split} cases"] = " ".join(case.id for case in data.cases(split))
    # All processes of a host have the same code and store.
    if local_rank() == 0:
        told[_CODE] = code_version().get("mlflow.source.git.commit", "not known")
        if isinstance(patches, PatchDataset):
            told[_CONTENT] = patches.store.digest()
    shared = told.keys() - {_CODE, _CONTENT}
    everyone = of_all_ranks((dict(work), told))
    for rank, (_, theirs) in enumerate(everyone):
        first = {name: value for name, value in everyone[0][1].items() if name in theirs or name in shared}
        found = differences(first, theirs, ("on rank 0", f"on rank {rank}"))
        if found:
            raise DistributedError(
                f"the processes do not train the same ({'; '.join(found[:8])}): give all hosts the same command, code "
                "and dataset"
            )
    return everyone[0][0]
