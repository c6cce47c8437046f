"""Files that should be images but cannot be opened: they are reported as failed cases instead of being ignored."""

from __future__ import annotations

import mimetypes
import os
from pathlib import Path

from transforms.io.header import image_suffix
from transforms.utils.walk import leads_nowhere


def reason_lost(path: str | os.PathLike[str]) -> str:
    """Why a file cannot be opened and what to do about it; "" if it can be opened."""
    if leads_nowhere(path):
        return f"a link to nothing ({os.readlink(path)}); fetch what belongs there"
    try:
        with Path(path).open("rb"):
            return ""
    except OSError as error:
        return f"cannot be opened ({error.strerror}); check its permissions"


def may_be_an_image(path: str | os.PathLike[str]) -> bool:
    """Whether a path that cannot be opened may be an image or a folder of slices, judged by its name.

    False for a file that can be opened, and for a name with the suffix of another kind of file (text, table, page).
    """
    if not reason_lost(path):
        return False
    kind = mimetypes.guess_type(Path(path).name)[0]
    return kind in (None, "application/dicom") or bool(image_suffix(Path(path).name))
