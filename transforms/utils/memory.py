"""When the memory of a device is full."""

from __future__ import annotations

# Libraries below torch that find no memory say so in words of their own.
_WORDS = ("CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory", "can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch says that there is no memory for a tensor or for an operation's workspace."""
    # torch.OutOfMemoryError is a RuntimeError that has these words too.
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)
