"""What the log says about one case, kept with that case."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def warnings_of(*sources: str) -> Iterator[list[str]]:
    """Keep the warnings that these loggers and those below them get meanwhile, each text once."""
    found: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if text not in found:
                found.append(text)

    handler = Keep(logging.WARNING)
    loggers = [logging.getLogger(name) for name in sources]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield found
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
