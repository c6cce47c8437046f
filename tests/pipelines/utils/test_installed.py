"""Where the code lies; that of a wheel is in `tests/e2e/test_installed.py`."""

from pipelines.utils import installed
from tests.conftest import REPOSITORY


def test_the_repository_has_short_names() -> None:
    assert installed.PREFIX == ""
    assert installed.COMMAND == "python -m pipelines"
    assert installed.name_here("pipelines.data") == "pipelines.data"
    assert installed.ROOT == REPOSITORY
    assert installed.version_line().endswith(f" in {REPOSITORY}")
