"""Collecting the warnings that are logged for a case."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

from pipelines.utils.installed import name_here


@contextlib.contextmanager
def warnings_of(*sources: str, this_thread: bool = False) -> Iterator[list[str]]:
    """Collect the warnings logged during the block, without duplicates.

    Args:
        sources: packages of ours, whose loggers and child loggers are meant.
        this_thread: only collect warnings of this thread, if other threads work on other cases.
    """
    found: list[str] = []
    asking = threading.get_ident()

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if text not in found and (not this_thread or record.thread == asking):
                found.append(text)

    handler = Keep(logging.WARNING)
    loggers = [logging.getLogger(name_here(name)) for name in sources]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield found
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
