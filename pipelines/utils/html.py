"""Writing self-contained HTML pages from Jinja2 templates, which lie beside the modules that use them.

`templates/` holds the shared parts: base page, macros, style sheet for light and dark mode, and sorting of tables.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transforms.utils.files import replacing

_SHARED = Path(__file__).with_name("templates")


def write_page(path: Path, template: Path, **values: Any) -> None:
    """Render a template and write the page; texts are escaped, so that names may contain any character.

    Args:
        path: file to write.
        template: template of the page, which extends `templates/base.html`.
        values: variables of the template.

    Raises:
        jinja2.UndefinedError: the template uses a variable that `values` lacks.
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
