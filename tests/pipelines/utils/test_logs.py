"""Warnings kept with the case that they are about."""

import logging
import threading

import pytest

from pipelines.utils.logs import warnings_of


def test_each_warning_of_the_named_loggers_once():
    with warnings_of("pipelines", "transforms.io") as found:
        for _ in range(2):
            logging.getLogger("pipelines.data.check").warning("a %s", "hole")
        logging.getLogger("transforms.io.readers").error("cut off")
        logging.getLogger("transforms.io").info("quiet")
        logging.getLogger("transforms.dicom").warning("elsewhere")
    assert found == ["a hole", "cut off"]
    logging.getLogger("pipelines").warning("later")
    assert found == ["a hole", "cut off"]


def test_warnings_of_other_cases_are_of_other_threads():
    other = threading.Thread(target=lambda: logging.getLogger("pipelines").warning("another case"))
    with warnings_of("pipelines", this_thread=True) as mine, warnings_of("pipelines") as everybodys:
        other.start()
        other.join()
        logging.getLogger("pipelines").warning("this case")
    assert mine == ["this case"]
    assert everybodys == ["another case", "this case"]


def test_an_error_leaves_no_handler():
    before = list(logging.getLogger("pipelines").handlers)
    with pytest.raises(ValueError, match="broken"), warnings_of("pipelines"):
        raise ValueError("broken")
    assert logging.getLogger("pipelines").handlers == before
