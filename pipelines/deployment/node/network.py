"""Addresses, TLS and the library of DICOM's network, which is an extra."""

from __future__ import annotations

import importlib
import ssl
from dataclasses import dataclass
from typing import Any, NamedTuple

from transforms.errors import SettingError, UserError

__all__ = ["Destination", "Limits", "MissingLibraryError", "Tls", "ae_title", "pynetdicom"]

_LONGEST_TITLE = 16


class MissingLibraryError(UserError, RuntimeError):
    """pynetdicom is not installed."""


def pynetdicom() -> Any:
    """The library.

    Raises:
        MissingLibraryError: it is not installed.
    """
    try:
        return importlib.import_module("pynetdicom")
    except ModuleNotFoundError as error:
        raise MissingLibraryError(
            "a DICOM node needs the package pynetdicom: pip install 'segbundles[node]', or pip install pynetdicom"
        ) from error


@dataclass(frozen=True)
class Limits:
    """What one peer, or all of them together, may take.

    Attributes:
        associations: at the same time; another one is rejected.
        pdu: largest number of bytes in which a peer sends.
        instance: bytes of one image; an association that sends a larger one is aborted.
        timeout: seconds without a word after which an association is aborted.
    """

    associations: int = 10
    pdu: int = 1 << 16
    instance: int = 4 << 30
    timeout: float = 60.0


class Destination(NamedTuple):
    """Where results are sent: AE title, host and port."""

    title: str
    host: str
    port: int

    @classmethod
    def of(cls, text: str) -> Destination:
        """The destination in "AET@host:port"; an IPv6 address stands in brackets.

        Raises:
            SettingError: the text has another form.

        Examples:
            >>> Destination.of("PACS@192.168.0.7:104")
            Destination(title='PACS', host='192.168.0.7', port=104)
        """
        title, _, address = text.rpartition("@")
        host, _, port = address.rpartition(":")
        if not title or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise SettingError(
                f"{text[:300]!r} is no destination; give AET@host:port, such as PACS@10.0.0.5:104"
            )
        return cls(ae_title(title), host.removeprefix("[").removesuffix("]"), int(port))

    def __str__(self) -> str:
        return f"{self.title}@{self.host}:{self.port}"


def ae_title(text: str) -> str:
    """An AE title without blanks around it (PS3.5 6.2, AE).

    Raises:
        SettingError: it is empty, or longer than 16 characters, or not of the basic characters.
    """
    title = text.strip()
    if (
        not 0 < len(title) <= _LONGEST_TITLE
        or not title.isascii()
        or not title.isprintable()
        or "\\" in title
    ):
        raise SettingError(
            f"{text[:80]!r} is no AE title: give 1 to 16 characters of ASCII without backslash"
        )
    return title


@dataclass(frozen=True)
class Tls:
    """Certificates for encrypted associations, in both directions.

    Attributes:
        certificate, key: PEM files of this node.
        authority: PEM file with the certificates that the peers' have to be signed by.
    """

    certificate: str
    key: str
    authority: str

    def listening(self) -> ssl.SSLContext:
        """For associations from others, who have to show a certificate."""
        context = _LateHandshake(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        return self._loaded(context)

    def sending(self) -> ssl.SSLContext:
        """For associations to a destination, whose certificate has to be of its host."""
        return self._loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    def _loaded(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key)
            context.load_verify_locations(self.authority)
        except OSError as error:  # ssl.SSLError too
            raise SettingError(
                f"{self.certificate}, {self.key} and {self.authority} are no certificate, key and authority in PEM"
                f" ({error.strerror or error})"
            ) from error
        return context


class _LateHandshake(ssl.SSLContext):
    """Greets in the thread of an association: a peer that connects and says nothing must not keep others waiting."""

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        return super().wrap_socket(*arguments, **{**options, "do_handshake_on_connect": False})
