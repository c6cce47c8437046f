"""The side of a node that others call: a storage SCP (PS3.4 B) that also answers C-ECHO (PS3.4 A)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from pipelines.deployment.node.instances import (
    STORAGE_CLASSES,
    TRANSFER_SYNTAXES,
    InstanceError,
    read_instance,
)
from pipelines.deployment.node.network import Limits, Tls, pynetdicom
from pipelines.deployment.node.queue import Queue, QueueFullError
from transforms.errors import UserError
from transforms.utils.files import NO_ROOM

logger = logging.getLogger(__name__)

SUCCESS, OUT_OF_RESOURCES, NOT_MATCHING, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000
"""Statuses of C-STORE (PS3.4 B.2.3)."""


class ListenError(UserError, OSError):
    """The node cannot listen at its address."""


class Listener:
    """Takes images from the network into a queue.

    Args:
        queue: what comes in is on its disk before the sender hears that it was taken.
        title: AE title of this node; who calls another one is rejected.
        accept: AE titles that may call; empty for any.
        limits: what a peer may take.
        tls: certificates; None without encryption.
        quiet: name no UIDs in the log.
    """

    def __init__(
        self,
        queue: Queue,
        title: str,
        accept: Sequence[str] = (),
        limits: Limits | None = None,
        tls: Tls | None = None,
        quiet: bool = False,
    ) -> None:
        self.queue, self.title, self.accept, self.tls, self.quiet = queue, title, list(accept), tls, quiet
        self.limits = limits or Limits()
        self._server: Any = None
        self._received: dict[int, int] = {}

    def start(self, host: str, port: int) -> int:
        """Listen in threads of its own; returns the port, which is a free one for port 0.

        Raises:
            ListenError: the address cannot be used.
            MissingLibraryError: pynetdicom is not installed.
        """
        library = pynetdicom()
        entity = library.AE(ae_title=self.title)
        entity.require_called_aet = True
        entity.require_calling_aet = self.accept
        entity.maximum_associations = self.limits.associations
        entity.maximum_pdu_size = self.limits.pdu
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = self.limits.timeout
        entity.add_supported_context("1.2.840.10008.1.1")  # Verification
        for storage_class in STORAGE_CLASSES:
            entity.add_supported_context(storage_class, TRANSFER_SYNTAXES)
        events = library.evt
        handlers = [
            (events.EVT_C_ECHO, lambda event: SUCCESS),
            (events.EVT_C_STORE, self._store),
            (events.EVT_DATA_RECV, self._count),
            (events.EVT_RELEASED, lambda event: self._left(event, True)),
            (events.EVT_ABORTED, lambda event: self._left(event, False)),
            (events.EVT_CONN_CLOSE, lambda event: self._left(event, False)),
            (events.EVT_REJECTED, self._rejected),
        ]
        try:
            self._server = entity.start_server(
                (host, port),
                block=False,
                ssl_context=self.tls.listening() if self.tls else None,
                evt_handlers=handlers,
            )
        except OSError as error:
            raise ListenError(
                f"cannot listen at {host}:{port} ({error.strerror or error}); name another --host or --port"
            ) from error
        return int(self._server.server_address[1])

    def stop(self) -> None:
        """Take no more; what is on its way is broken off."""
        if self._server is not None:
            self._server.shutdown()
            for association in self._server.active_associations:
                association.abort()
            self._server = None

    def _store(self, event: Any) -> int:
        self._received[id(event.assoc)] = 0
        caller = event.assoc.requestor.ae_title
        try:
            content = event.encoded_dataset()
            image = read_instance(content, str(event.request.AffectedSOPInstanceUID))
            if self.queue.store(image, content, id(event.assoc)):
                series = "a series" if self.quiet else f"series {image.series}"
                logger.info("%r sends %s", caller, series)
        except InstanceError as error:
            logger.warning(
                "an image from %r is refused: %s", caller, "it is damaged" if self.quiet else error
            )
            return NOT_MATCHING if "calls itself" in str(error) else NOT_UNDERSTOOD
        except QueueFullError as error:
            logger.warning("an image from %r is refused: %s; it may be sent again later", caller, error)
            return OUT_OF_RESOURCES
        except OSError as error:
            logger.error("an image from %r cannot be written: %s", caller, error.strerror or error)
            return OUT_OF_RESOURCES if error.errno in NO_ROOM else NOT_UNDERSTOOD
        return SUCCESS

    def _count(self, event: Any) -> None:
        """Break off an association that sends more than an image may have: its parts are in memory until it is whole."""
        received = self._received.get(id(event.assoc), 0) + len(event.data)
        self._received[id(event.assoc)] = received
        if received > self.limits.instance:
            logger.warning(
                "the association of %r is broken off: it sends an image of more than %.3g MB (--max-instance)",
                event.assoc.requestor.ae_title,
                self.limits.instance / 1e6,
            )
            event.assoc.dul.socket.close()

    def _left(self, event: Any, released: bool) -> None:
        self._received.pop(id(event.assoc), None)
        self.queue.left(id(event.assoc), released)

    def _rejected(self, event: Any) -> None:
        caller, called = event.assoc.requestor.ae_title, event.assoc.requestor.primitive.called_ae_title
        if self.accept and caller not in self.accept:
            why = "is not in --accept"
        elif called.strip() != self.title:
            why = f"calls {called!r}, and this node is {self.title}"
        else:
            why = f"would be one more than {self.limits.associations} associations (--max-associations)"
        logger.warning("an association is rejected: %r %s", caller, why)
