"""Which DICOM instances a node takes from the network, and the names under which it keeps them.

Everything here comes from strangers: a UID becomes the name of a file only if it is one (PS3.5 9.1: digits and dots).
"""

from __future__ import annotations

import re
from io import BytesIO
from typing import NamedTuple

from pydicom import dcmread
from pydicom.uid import (
    JPEG2000,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    LegacyConvertedEnhancedCTImageStorage,
    RLELossless,
)

from transforms.errors import UserError

STORAGE_CLASSES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
"""What `transforms.dicom.series` reads."""

# Not the deflated one: a small instance could fill the memory when its header is read.
TRANSFER_SYNTAXES = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEGLosslessSV1,
    JPEGLossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
    RLELossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
]

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_LONGEST = 64
_LEVELS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


class InstanceError(UserError, ValueError):
    """An instance cannot be taken; the message says why."""


class Instance(NamedTuple):
    """The UIDs of an image, each checked to be one."""

    study: str
    series: str
    instance: str


def read_instance(content: bytes, instance: str) -> Instance:
    """The UIDs in the header of an image that came over the network.

    Args:
        content: a whole DICOM file.
        instance: the UID under which it was sent.

    Raises:
        InstanceError: the header cannot be read, a UID is missing or is none, or it is another instance.
    """
    try:
        header = dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=list(_LEVELS))
        found = Instance(*(str(header.get(keyword) or "") for keyword in _LEVELS))
    except Exception as error:  # on damaged data the parser can raise any exception
        raise InstanceError(f"its header cannot be read ({str(error) or type(error).__name__})") from error
    for keyword, uid in zip(_LEVELS, found, strict=True):
        if not is_uid(uid):
            raise InstanceError(
                f"its {keyword} is {uid[:80]!r}, which is no UID" if uid else f"it has no {keyword}"
            )
    if found.instance != instance:
        raise InstanceError(f"it was sent as {instance[:80]!r} and calls itself {found.instance}")
    return found


def is_uid(text: str) -> bool:
    """Whether a text is a UID (PS3.5 9.1), which is also a file name that leads nowhere else.

    Examples:
        >>> is_uid("1.2.840.10008.1.1"), is_uid("../../etc/passwd"), is_uid("1..2"), is_uid("")
        (True, False, False, False)
    """
    return len(text) <= _LONGEST and _UID.fullmatch(text) is not None
