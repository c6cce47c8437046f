"""Random numbers go on where they were."""

import random

import numpy as np
import pytest
import torch

from pipelines.inference.trained_model import load_tensors
from pipelines.training.seed import random_state, set_random_state


@pytest.mark.parametrize("seed", range(3))
def test_all_generators_go_on_from_a_file(tmp_path, seed):
    def draw():
        return random.random(), random.gauss(0, 1), np.random.standard_normal(), torch.rand(3).tolist()  # noqa: NPY002

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    draw()  # half a pair of normal numbers is left over
    torch.save(random_state(), tmp_path / "state.pt")
    expected = [draw() for _ in range(5)]
    draw()
    set_random_state(load_tensors(tmp_path / "state.pt"))
    assert [draw() for _ in range(5)] == expected
