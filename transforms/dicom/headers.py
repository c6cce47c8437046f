"""Reading of the headers of the DICOM files below a folder, without pixel data.

Values are kept as they are stored in the file (PS3.5 7.1): texts stay texts, so that a number of 17 characters, an
unknown VR or a stray NUL is no error here; `transforms.dicom.checks` validates the attributes that matter.
"""

from __future__ import annotations

import gzip
import logging
import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pydicom
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.errors import InvalidDicomError
from pydicom.filereader import data_element_generator
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    LegacyConvertedEnhancedCTImageStorage,
    MediaStorageDirectoryStorage,
)

from transforms.dicom.attributes import BINARY, GROUPS, MULTI_FRAME, NAMES, TOP, UNITS, VR
from transforms.dicom.files import (
    DICOM_ENDINGS,
    dicom_files_below,
    has_prefix,
    open_file,
    starts_bare,
    warn_of_blank,
)
from transforms.dicom.frame import EXPORT, FileState, Frame, file_state
from transforms.dicom.header_cache import HeaderCache
from transforms.errors import ImageError
from transforms.utils.image_paths import check_path
from transforms.utils.threads import parallel
from transforms.utils.walk import leads_nowhere

__all__ = [
    "CT_CLASSES",
    "EXPORT",
    "Frame",
    "frames_of",
    "holds_dicom",
    "scan_files",
]

CT_CLASSES = frozenset({CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage})

_TEXTS = ("LO", "SH", "PN", "LT", "ST")
_log = logging.getLogger(__name__)


_MOST_KEPT = 1024
"""Number of frames whose headers are kept: enough for a long series."""
_known = HeaderCache(_MOST_KEPT)


def scan_files(path: Path) -> list[Frame]:
    """Read the headers of all DICOM files in a folder and its subfolders, or of one file.

    Hidden files and folders, DICOMDIR and files that are not DICOM are skipped.

    Raises:
        ImageError: for a file that is DICOM, or named so, and whose header cannot be parsed: it may be a
            slice of the series.
    """
    check_path(path)
    if not path.exists():
        raise ImageError(f"{path}: no such folder.")
    files = [path] if path.is_file() else dicom_files_below(path)
    found = parallel(frames_of, files)
    warn_of_blank(files, found)
    return [frame for frames in found for frame in frames]


def frames_of(path: Path) -> list[Frame]:
    """The frames of a DICOM file; none for any other file.

    The header of an unchanged file is not parsed again while it is in the cache.

    Raises:
        ImageError: the file is DICOM, or named so, and its header cannot be parsed.
    """
    try:
        state = file_state(os.stat(path))
    except OSError:  # a broken link, or no permission: opening the file raises the error
        return _parsed_frames(path)
    found = _known.get(path, state)
    if found is None:
        found = _parsed_frames(path)
        if all(frame.state == state for frame in found):
            _known.put(path, state, found)
    return found


def _parsed_frames(path: Path) -> list[Frame]:
    if leads_nowhere(path):
        if not path.name.lower().endswith(DICOM_ENDINGS):
            return []
        raise ImageError(
            f"{path}: a link to nothing ({os.readlink(path)}); fetch the file that belongs there."
        )
    with open_file(path) as stream:
        named = path.name.lower().endswith(DICOM_ENDINGS)
        try:
            try:
                start = stream.read(132)
            except (OSError, EOFError, zlib.error) as error:
                if named:
                    raise ImageError(
                        f"{path}: cannot be unpacked ({error}), the file is damaged; copy the series again."
                    ) from error
                return []
            bare = start[128:] != b"DICM"
            if bare and not starts_bare(start):
                if named:
                    raise ImageError(
                        f"{path}: named like a slice but not a DICOM file; it is damaged. Copy the series again."
                    )
                return []
            header, syntax, meta_kind = _parsed(stream, bare)
            if bare and "SOPClassUID" not in header:
                if named:
                    raise InvalidDicomError("no preamble and no SOPClassUID")
                return []
            if meta_kind == MediaStorageDirectoryStorage:
                return []
            kind = UID(str(header.get("SOPClassUID", "")))
            if kind.name == kind and "Modality" not in header and meta_kind not in CT_CLASSES:
                raise InvalidDicomError("neither a known SOPClassUID nor a Modality, it may be cut off")
            if CT_CLASSES & {kind, meta_kind} and "Rows" not in header and "Columns" not in header:
                raise InvalidDicomError("neither Rows nor Columns, it may be cut off")
            found = os.fstat(stream.fileno())
            size = None if isinstance(stream, gzip.GzipFile) else found.st_size
            if "Modality" not in header and meta_kind in CT_CLASSES:
                header.Modality = "CT"  # so that no slice is left out because it lost its Modality
            file = _File(path, syntax, size, stream.tell(), meta_kind, file_state(found))
            return _frames(file, header)
        except ImageError:
            raise
        except Exception as error:  # on damaged data the parser can raise any exception
            if bare and not named:
                return []
            raise ImageError(
                f"{path}: the DICOM header is damaged ({error}); copy the series again."
            ) from error


def _parsed(stream: BinaryIO, bare: bool) -> tuple[pydicom.Dataset, UID, str]:
    """Header, transfer syntax and MediaStorageSOPClassUID; leaves the stream at the pixel data.

    A file with meta information is read by pydicom's parser directly, which takes a third of the time of dcmread; all
    other files are read by dcmread.
    """
    if not bare:
        stream.seek(132)
        parser = data_element_generator(stream, False, True, lambda tag, vr, length: tag >> 16 != 2)
        meta = {int(element.tag): element.value for element in parser}
        syntax, kind = (UID(_text(meta.get(tag))) for tag in (0x00020010, 0x00020002))
        _require_known(stream.name, syntax)
        start = stream.read(6)
        stream.seek(-len(start), 1)
        if len(start) == 6 and syntax.is_transfer_syntax and not syntax.is_deflated:
            explicit = (
                start[4:].isalpha() and start[4:].isupper()
            )  # as found, even if the meta information differs
            if explicit == syntax.is_implicit_VR and not syntax.is_encapsulated:
                syntax = ExplicitVRLittleEndian if explicit else ImplicitVRLittleEndian
            elements = data_element_generator(stream, not explicit, syntax.is_little_endian, _are_pixels)
            return pydicom.Dataset({element.tag: element for element in elements}), syntax, kind
    stream.seek(0)
    header = pydicom.dcmread(stream, stop_before_pixels=True, force=bare)
    syntax = UID(str(header.file_meta.get("TransferSyntaxUID", "")))
    _require_known(stream.name, syntax)
    if not syntax:
        implicit, little = header.original_encoding
        plain = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        syntax = ImplicitVRLittleEndian if implicit else plain
    return header, syntax, str(header.file_meta.get("MediaStorageSOPClassUID", ""))


def _require_known(path: str, syntax: UID) -> None:
    """Raise for a transfer syntax that is private or unknown to the installed libraries."""
    if not syntax or (syntax.is_transfer_syntax and not syntax.is_private):
        return
    kind = "an unknown" if syntax.startswith("1.2.840.10008.") else "a private"
    name = "" if syntax.name == syntax else f", {syntax.name}"
    raise ImageError(
        f"{path}: stored in {kind} transfer syntax ({syntax}{name}), which cannot be read here; export the series again in"
        " a standard one, such as Explicit VR Little Endian (1.2.840.10008.1.2.1)."
    )


def _are_pixels(tag: int, vr: str | None, length: int) -> bool:
    return tag >> 16 == 0x7FE0 and (tag & 0xFFFF) >= 8  # not its group length and offset table


def _text(raw: Any) -> str:
    return raw.decode("latin-1").strip(" \0") if isinstance(raw, bytes) else ""


class _File(NamedTuple):
    """What all frames of a file have in common, see `Frame`."""

    path: Path
    syntax: UID
    size: int | None
    offset: int
    media_class: str
    state: FileState


def _frames(file: _File, header: pydicom.Dataset) -> list[Frame]:
    values = _values(header, TOP)
    enhanced = MULTI_FRAME[1] in header and "CT" in values.get("Modality", ())
    count = int(values.get("NumberOfFrames", ("1",))[0])
    ct = "CT" in values.get("Modality", ()) or values.get("SOPClassUID", ("",))[0] in CT_CLASSES
    more: dict[str, Any] = {**file._asdict(), "header": _copyable(header, file.syntax) if ct else None}
    if not enhanced:
        return [Frame(index=0, count=1, values=values, **more)]
    for (
        names
    ) in GROUPS.values():  # only the groups count, even if a program repeats the attributes at the top level
        for name in names:
            if name != "VolumetricProperties":
                values.pop(name, None)
    shared = header.get(MULTI_FRAME[0]) or [pydicom.Dataset()]
    own = header[MULTI_FRAME[1]].value
    if len(own) != count:
        raise InvalidDicomError(f"{count} frames but functional groups for {len(own)}")
    common = _grouped(shared[0])
    return [
        Frame(index=index, count=count, values={**values, **common, **_grouped(groups)}, grouped=True, **more)
        for index, groups in enumerate(own)
    ]


def _copyable(header: pydicom.Dataset, syntax: UID) -> pydicom.Dataset:
    """The elements that a SEG or RTSTRUCT may copy: all but private elements, functional groups and overlays."""
    kept = {tag: element for tag, element in header.items() if tag.group < 0x5000 and not tag.is_private}
    found = pydicom.Dataset(kept)
    charset = convert_encodings(header.get("SpecificCharacterSet"))
    found.set_original_encoding(syntax.is_implicit_VR, syntax.is_little_endian, charset)
    return found


def _grouped(groups: pydicom.Dataset) -> dict[str, tuple[Any, ...]]:
    found: dict[str, tuple[Any, ...]] = {}
    for sequence, names in GROUPS.items():
        items = groups.get(sequence)
        if items:
            found |= _values(items[0], frozenset(names))
    return found | _values(groups, frozenset([UNITS]))


def _values(header: pydicom.Dataset, names: frozenset[str]) -> dict[str, tuple[Any, ...]]:
    found = {}
    for number, element in header.items():  # raw elements: access by keyword would be slower
        name = NAMES.get(number)
        if name in names:
            value = _units(header[number].value) if name == UNITS else _value(header, name, element)
            if value:
                found[name] = value
    return found


def _value(header: pydicom.Dataset, name: str, element: Any) -> tuple[Any, ...]:
    """Decode an element from its bytes, so that a wrong VR or an overlong decimal string is no error."""
    raw = element.value
    if isinstance(raw, Sequence) or VR[name] == "SQ":
        return (True,) if len(raw or ()) else ()
    if raw is None:
        return ()
    if not isinstance(raw, bytes):  # converted by pydicom already
        items = raw if isinstance(raw, (list, tuple)) or hasattr(raw, "insert") else [raw]
        return tuple(item for item in items if item not in ("", None))
    known = element.VR if element.VR in BINARY else VR[name]
    if VR[name] in BINARY and known in BINARY:
        code = BINARY[known]
        order = "<" if element.is_little_endian else ">"
        return struct.unpack(f"{order}{len(raw) // struct.calcsize(code)}{code}", raw)
    if raw.isascii() or VR[name] not in _TEXTS:
        text = raw.decode("latin-1")
    else:
        text = decode_bytes(raw, convert_encodings(header.get("SpecificCharacterSet")), set())
    if name == "SeriesDescription":
        return (text.strip(" \0"),) if text.strip(" \0") else ()
    parts = [part.strip(" \0\t\r\n") for part in text.split("\\")]
    return tuple(parts) if any(parts) else ()


def _units(items: Any) -> tuple[str, ...]:
    """Units that values are mapped to (PS3.3 C.7.6.16.2.11), as codes."""
    codes = [code for item in items or () for code in item.get("MeasurementUnitsCodeSequence") or ()]
    return tuple(str(code.get("CodeValue", "")).strip() for code in codes)


def holds_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its content: its prefix, or without one a header with a SOPClassUID; also gzipped."""
    try:
        return bool(frames_of(path))
    except ImageError:  # damaged: the scan reports it
        with suppress(ImageError):
            return has_prefix(path)
        return False
