"""Detection of out-of-memory errors of a device."""

from __future__ import annotations

# Out-of-memory messages of libraries that torch calls.
_WORDS = ("CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory", "can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch failed to allocate memory for a tensor or for the workspace of an operation."""
    # torch.OutOfMemoryError is a RuntimeError whose message also has this text.
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)
