"""The side of a node that calls others: a storage SCU (PS3.4 B), which sends results to their destination."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RTStructureSetStorage,
    SegmentationStorage,
)

from pipelines.deployment.node.network import Destination, Limits, Tls, pynetdicom
from transforms.errors import UserError

__all__ = ["RefusedError", "Sender", "UnreachableError"]

_SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


class UnreachableError(UserError, OSError):
    """The destination does not take results at this moment, and may later."""


class RefusedError(UserError, ValueError):
    """The destination does not take a result, and will not take it later."""


class Sender:
    """Sends files of results by C-STORE.

    Args:
        destination: where to.
        title: AE title of this node.
        limits: its timeout is used.
        tls: certificates; None without encryption.
    """

    def __init__(
        self, destination: Destination, title: str, limits: Limits | None = None, tls: Tls | None = None
    ) -> None:
        self.destination, self.title, self.limits, self.tls = destination, title, limits or Limits(), tls

    def send(self, files: Iterable[Path], sent: Callable[[Path], None]) -> None:
        """Send files over one association.

        Args:
            files: DICOM SEG and RTSTRUCT.
            sent: called with each file that the destination has taken.

        Raises:
            UnreachableError: the destination is not there, takes no association, or has no room.
            RefusedError: it does not take a result of this kind, or with this content.
        """
        library = pynetdicom()
        entity = library.AE(ae_title=self.title)
        for storage_class in (SegmentationStorage, RTStructureSetStorage):
            # One context for each, so that the destination can take both and files need no other encoding.
            for syntax in _SYNTAXES:
                entity.add_requested_context(storage_class, syntax)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = self.limits.timeout
        entity.connection_timeout = min(30.0, self.limits.timeout)
        association = entity.associate(
            self.destination.host,
            self.destination.port,
            ae_title=self.destination.title,
            tls_args=(self.tls.sending(), self.destination.host) if self.tls else None,
        )
        if association.is_rejected:
            raise UnreachableError(
                f"{self.destination} rejects the association; does it know {self.title!r}?"
            )
        if not association.is_established:
            raise UnreachableError(f"{self.destination} does not answer")
        try:
            for path in files:
                self._send(association, path)
                sent(path)
        finally:
            association.release()

    def _send(self, association: Any, path: Path) -> None:
        dataset: Dataset = dcmread(path)
        taken = {
            context.transfer_syntax[0]
            for context in association.accepted_contexts
            if context.abstract_syntax == dataset.SOPClassUID
        }
        if not taken:
            raise RefusedError(f"{self.destination} does not take {dataset.SOPClassUID.name}")
        # As it is where possible: contours that are too long for explicit VR are written with implicit VR.
        if dataset.file_meta.TransferSyntaxUID not in taken:
            syntax = next(syntax for syntax in _SYNTAXES if syntax in taken)
            dataset = _encoded(dataset, syntax)
        answer = association.send_c_store(dataset)
        if "Status" not in answer:
            raise UnreachableError(f"{self.destination} broke the association off")
        status = int(answer.Status)
        # Warnings (PS3.4 B.2.3) mean that it was stored.
        if status == 0x0000 or 0xB000 <= status <= 0xBFFF:
            return
        said = f" ({answer.ErrorComment})" if "ErrorComment" in answer else ""
        if status >> 8 == 0xA7 or status in (0x0110, 0x0213, 0x0124):
            raise UnreachableError(f"{self.destination} answers status {status:04X}{said}")
        raise RefusedError(f"{self.destination} refuses the result with status {status:04X}{said}")


def _encoded(dataset: Dataset, syntax: UID) -> Dataset:
    """The dataset in another transfer syntax, as if it had been read from such a file."""
    stream = BytesIO()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(stream, enforce_file_format=True, implicit_vr=syntax.is_implicit_VR, little_endian=True)
    return dcmread(BytesIO(stream.getvalue()))
