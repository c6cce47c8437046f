"""Delivers the journals of a spool to MLflow without a training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pipelines.tracking.client import TrackingError, connect, first_line
from pipelines.tracking.delivery import Delivery
from pipelines.tracking.journal import JOURNAL, Journal, journals, with_refused
from pipelines.tracking.refused import told
from pipelines.utils.passwords import HIDDEN, hidden


def sync(root: Path, uri: str | None = None, refused: bool = False) -> bool:
    """Deliver every journal of a spool whose process has ended, and say what became of each.

    Args:
        root: the spool, or the folder of one journal in it.
        uri: deliver there instead of where each journal says.
        refused: try again what MLflow refused before.

    Returns:
        Whether nothing waits any more, apart from what living processes deliver themselves.
    """
    if refused:
        for journal in with_refused(root):
            journal.retry_refused()
    found = [Journal(root)] if (root / JOURNAL).is_file() else journals(root)
    clients: dict[str, Any] = {}
    away: dict[str, str] = {}
    counts = {"delivered": 0, "incomplete": 0, "waiting": 0, "running": 0}
    for journal in found:
        counts[_one(journal, uri, clients, away)] += 1
    left = with_refused(root)
    for journal in left:
        _tell(journal)
    words = [f"{count} {word}" for word, count in counts.items() if count]
    print(f"{root}: {', '.join(words) if words else 'nothing waits'}")
    return not counts["waiting"] and not left


def _tell(journal: Journal) -> None:
    """Say what of a run did not and will not arrive."""
    name = journal.folder.name
    missing = journal.missing()
    refused = [record for record in missing if not record.get("lost")]
    lost = [record for record in missing if record.get("lost")]
    if refused:
        print(f"{name}: MLflow refuses {len(refused)} records, see refused.jsonl there")
        print("\n".join(f"  {line}" for line in told(refused).split("\n")))
    if lost:
        print(f"{name}: the run is incomplete, {len(lost)} parts of it are lost")
        print("\n".join(f"  {line}" for line in told(lost).split("\n")))
        if not refused:
            print(f"  who knows that may remove {journal.folder}")


def with_password(uri: str) -> str:
    """The address in a journal, which holds no password, with the one that MLflow's variables have for it.

    Raises:
        TrackingError: there is none.
    """
    if HIDDEN not in uri:
        return uri
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    if hidden(given) == uri:
        return given
    web = uri.startswith(("http://", "https://"))
    names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN") if web else ("PGPASSWORD", "PGPASSFILE")
    if any(os.environ.get(name) for name in names):
        parts = urlsplit(uri)
        user, _, host = parts.netloc.rpartition("@")
        kept = "" if web else f"{user.partition(':')[0]}@"
        return urlunsplit(parts._replace(netloc=f"{kept}{host}"))
    raise TrackingError(
        f"the password of {uri} is not kept in the spool; set MLFLOW_TRACKING_URI to the whole address, or give it "
        "with --tracking-uri"
    )


def _one(journal: Journal, uri: str | None, clients: dict[str, Any], away: dict[str, str]) -> str:
    """Deliver one journal; "delivered", "waiting" or "running"."""
    name = journal.folder.name
    try:
        if not journal.take():
            print(f"{name}: its training is running and delivers it itself")
            return "running"
    except OSError as error:
        print(f"{name}: cannot be locked ({error}); copy the spool to a local disk")
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
        if target in away:
            print(f"{name}: waits for {hidden(target)} too")
            return "waiting"
        try:
            if target not in clients:
                clients[target] = connect(target)
            delivery = Delivery(journal, clients[target], uri=target)
            delivery.open()
            size = delivery.pending
            delivery.advance()
            delivery.abandon()
            delivery.tell_missing()
        except Exception as error:
            away[target] = first_line(error)
            print(f"{name}: cannot be delivered to {hidden(target)}: {first_line(error)}")
            return "waiting"
        missing = journal.refused
        became = "arrived, but the run is incomplete" if missing else "delivered"
        print(f"{name}: run '{head['name']}' ({delivery.run_id}), {size / 1e3:.1f} kB of records {became}")
        journal.remove()
        return "incomplete" if missing else "delivered"
    finally:
        journal.release()
