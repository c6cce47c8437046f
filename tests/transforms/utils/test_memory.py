"""Errors that say that a device has no memory left."""

import pytest
import torch

from transforms.utils.memory import is_out_of_memory


def test_a_tensor_that_no_machine_holds():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert is_out_of_memory(caught.value)


@pytest.mark.cuda
def test_a_tensor_that_no_gpu_holds():
    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(1 << 50, device="cuda")
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("word", ["cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED"])
def test_libraries_below_torch_have_words_of_their_own(word):
    assert is_out_of_memory(RuntimeError(word))


def test_other_errors_are_other_errors():
    with pytest.raises(RuntimeError) as caught:
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert not is_out_of_memory(caught.value)
    assert not is_out_of_memory(ValueError("out of memory"))
