"""The names by which the packages import each other, in the repository and in a wheel."""

import ast

import pytest

from docs.import_map import MODULES
from pipelines.utils.import_names import CLAIM, with_long_names, with_short_names
from tests.conftest import REPOSITORY

SOURCE = '''"""A page says
from pipelines import x
"""
from __future__ import annotations
import os, pipelinesque
from . import near
from transforms import errors as e
from .transforms import far
def f():
    if True: from pipelines.utils.locks import waiting_for  # from pipelines.utils.locks
    from networks.r2unet import (
        R2UNet,
    )
    return "from pipelines import x"
'''
LONG = '''"""A page says
from pipelines import x
"""
from __future__ import annotations
import os, pipelinesque
from . import near
from segbundles.transforms import errors as e
from .transforms import far
def f():
    if True: from segbundles.pipelines.utils.locks import waiting_for  # from pipelines.utils.locks
    from segbundles.networks.r2unet import (
        R2UNet,
    )
    return "from pipelines import x"
'''


def test_import_statements_change_and_nothing_else() -> None:
    assert with_long_names(SOURCE, "a.py") == LONG
    assert with_short_names(LONG, "a.py") == SOURCE


# The package `segbundles` is written for the wheel, and left as it is.
OURS = sorted(name for name in MODULES if not name.startswith("pipelines.deployment.installed"))


@pytest.mark.parametrize("name", OURS)
def test_every_module_comes_back_as_it_was(name: str) -> None:
    text = MODULES[name].read_text(encoding="utf-8")
    long = with_long_names(text, "a.py")
    assert with_short_names(long, "a.py") == text
    modules = [node.module for node in ast.walk(ast.parse(long)) if isinstance(node, ast.ImportFrom)]
    assert not [module for module in modules if module and module.split(".")[0] in MODULES]


@pytest.mark.parametrize("statement", ["import pipelines", "import os, pipelines.utils.locks as locks"])
def test_a_statement_that_binds_another_name_is_refused(statement: str) -> None:
    with pytest.raises(RuntimeError, match=r"b\.py, line 2: 'import pipelines"):
        with_long_names(f"import os\n{statement}\n", "b.py")


def test_configs_claim_the_names_that_they_use() -> None:
    for path in (REPOSITORY / "bundles").glob("*/*.json"):
        text = path.read_text(encoding="utf-8")
        long = with_long_names(text, path.name)
        assert long.count(CLAIM) == text.count('"imports"')
        # A build may meet what an earlier one has written.
        assert with_long_names(long, path.name) == long
        assert with_short_names(long, path.name) == text


def test_loggers_are_those_of_the_modules() -> None:
    text = (REPOSITORY / "bundles" / "r2unet" / "logging.conf").read_text(encoding="utf-8")
    long = with_long_names(text, "logging.conf")
    assert "qualname=segbundles.pipelines\n" in long
    assert with_short_names(long, "logging.conf") == text


def test_other_files_stay() -> None:
    assert with_long_names("from pipelines import x", "page.html") == "from pipelines import x"
