"""Entries of a folder that ought to be images but cannot be opened: they are cases that fail, not files to pass over."""

from __future__ import annotations

import mimetypes
import os
from pathlib import Path

from transforms.io.header import image_suffix
from transforms.utils.walk import leads_nowhere


def reason_lost(path: str | os.PathLike[str]) -> str:
    """Why a file cannot be opened and what to do about it, "" where it can."""
    if leads_nowhere(path):
        return f"a link to nothing ({os.readlink(path)}); fetch what belongs there"
    try:
        with Path(path).open("rb"):
            return ""
    except OSError as error:
        return f"cannot be opened ({error.strerror}); see to it that it can be read"


def may_be_an_image(path: str | os.PathLike[str]) -> bool:
    """Whether something that cannot be opened may be an image or a folder of slices, as its name does not say otherwise.

    A file that can be opened shows itself what it is: False. So does a name that ends like a text, a table or a page.
    """
    if not reason_lost(path):
        return False
    kind = mimetypes.guess_type(Path(path).name)[0]
    return kind in (None, "application/dicom") or bool(image_suffix(Path(path).name))
