"""The error that readers and writers of images raise."""


class ImageError(ValueError):
    """An image cannot be read (or written) with certainty.

    The message names the file, says what was found and what to do about it.
    """
