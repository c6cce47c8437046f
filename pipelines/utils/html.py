"""HTML pages of one file each, without network: a Jinja2 template lies beside the module that fills it.

`templates/` holds what all pages share: the frame, macros, one style for light and dark, and the sorting of tables.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transforms.utils.files import replacing

_SHARED = Path(__file__).with_name("templates")


def write_page(path: Path, template: Path, **values: Any) -> None:
    """Fill a template and write the page; texts are escaped, so that any name of a case or class can stand in it.

    Args:
        path: file to write.
        template: the page's own template, which extends `templates/base.html`.
        values: what the template shows.

    Raises:
        jinja2.UndefinedError: the template names something that `values` lacks.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([template.parent, _SHARED]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template.name).render(values)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
