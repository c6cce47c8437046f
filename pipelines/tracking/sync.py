"""Delivers the journals of a spool to MLflow without a training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pipelines.tracking.client import TrackingError, connect, first_line
from pipelines.tracking.delivery import Delivery
from pipelines.tracking.journal import JOURNAL, Journal, journals, with_refused
from pipelines.tracking.refused import FILE as REFUSED
from pipelines.tracking.refused import grouped_by_reason
from pipelines.utils.passwords import HIDDEN, hidden


def sync(root: Path, uri: str | None = None, refused: bool = False) -> bool:
    """Deliver every journal of a spool whose process has ended, and print the result for each.

    Args:
        root: the spool, or the folder of one journal in it.
        uri: tracking URI of the store; None takes the one in each journal.
        refused: whether to send the records again that MLflow refused before.

    Returns:
        Whether all records are sent and none was refused or lost; journals of running processes do not count.
    """
    if refused:
        for journal in with_refused(root):
            journal.retry_refused()
    found = [Journal(root)] if (root / JOURNAL).is_file() else journals(root)
    clients: dict[str, Any] = {}
    errors: dict[str, str] = {}
    counts = {"delivered": 0, "incomplete": 0, "waiting": 0, "running": 0}
    for journal in found:
        counts[_deliver(journal, uri, clients, errors)] += 1
    journals_with_refused = with_refused(root)
    for journal in journals_with_refused:
        _print_missing(journal)
    words = [f"{count} {word}" for word, count in counts.items() if count]
    print(f"{root}: {', '.join(words) if words else 'no records to send'}")
    return not counts["waiting"] and not journals_with_refused


def _print_missing(journal: Journal) -> None:
    """Print the records of a run that MLflow refused and those that are lost."""
    name = journal.folder.name
    missing = journal.missing()
    refused = [record for record in missing if not record.get("lost")]
    lost = [record for record in missing if record.get("lost")]
    if refused:
        print(f"{name}: MLflow refused {len(refused)} records; they are kept in {journal.folder / REFUSED}")
        print("\n".join(f"  {line}" for line in grouped_by_reason(refused).split("\n")))
    if lost:
        print(f"{name}: the run is incomplete: {len(lost)} parts of it are lost")
        print("\n".join(f"  {line}" for line in grouped_by_reason(lost).split("\n")))
        if not refused:
            print(f"  to stop this message, remove the folder {journal.folder}")


def with_password(uri: str) -> str:
    """The tracking URI of a journal, with the password from MLflow's environment variables if it needs one.

    Journals do not contain passwords. If the password is in a variable that MLflow reads itself, the URI is returned
    without the placeholder for it.

    Raises:
        TrackingError: the URI needs a password, and no variable contains one.
    """
    if HIDDEN not in uri:
        return uri
    address = os.environ.get("MLFLOW_TRACKING_URI", "")
    if hidden(address) == uri:
        return address
    web = uri.startswith(("http://", "https://"))
    names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN") if web else ("PGPASSWORD", "PGPASSFILE")
    if any(os.environ.get(name) for name in names):
        parts = urlsplit(uri)
        user, _, host = parts.netloc.rpartition("@")
        kept = "" if web else f"{user.partition(':')[0]}@"
        return urlunsplit(parts._replace(netloc=f"{kept}{host}"))
    raise TrackingError(
        f"the password of {uri} is not kept in the spool; set MLFLOW_TRACKING_URI to the address with the password, "
        "or give that address with --tracking-uri"
    )


def _deliver(journal: Journal, uri: str | None, clients: dict[str, Any], errors: dict[str, str]) -> str:
    """Deliver one journal, and print the result.

    Args:
        journal: the journal.
        uri: see `sync`.
        clients: clients of the stores, by tracking URI; a new one is added.
        errors: errors of stores that cannot be reached, by tracking URI; a new one is added.

    Returns:
        "delivered", "incomplete", "waiting" or "running", as counted by `sync`.
    """
    name = journal.folder.name
    try:
        if not journal.take():
            print(f"{name}: its training is still running and sends the records itself")
            return "running"
    except OSError as error:
        print(f"{name}: cannot be locked ({error}); copy the spool to a local disk and run sync there")
        return "waiting"
    try:
        head = journal.head()
        if head is None:
            journal.remove()
            return "delivered"
        try:
            target = uri or with_password(head["uri"])
        except TrackingError as error:
            print(f"{name}: {error}")
            return "waiting"
        # A later journal may continue the run of an earlier one, so journals are never delivered out of order.
        if target in errors:
            print(f"{name}: not sent, because an earlier journal for {hidden(target)} could not be delivered")
            return "waiting"
        try:
            if target not in clients:
                clients[target] = connect(target)
            delivery = Delivery(journal, clients[target], uri=target)
            delivery.open()
            size = delivery.pending
            delivery.advance()
            delivery.abandon()
            delivery.tag_missing()
        except Exception as error:
            errors[target] = first_line(error)
            print(f"{name}: cannot be delivered to {hidden(target)}: {first_line(error)}")
            return "waiting"
        missing = journal.refused
        outcome = "sent, but the run is incomplete" if missing else "delivered"
        print(f"{name}: run '{head['name']}' ({delivery.run_id}), {size / 1e3:.1f} kB of records {outcome}")
        journal.remove()
        return "incomplete" if missing else "delivered"
    finally:
        journal.release()
