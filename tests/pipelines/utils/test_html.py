"""Pages: what any text does in them, and what a template may not do."""

from pathlib import Path

import jinja2
import pytest

from pipelines.utils.html import write_page

TEMPLATE = """{% extends "base.html" %}
{% from "macros.html" import table %}
{% block content %}
<p title="{{ text }}">{{ text }}</p>
{% call(row) table([text], [text], "sortable", [text]) %}<td>{{ row }}</td>{% endcall %}
{% endblock %}
"""


def template(folder: Path, text: str) -> Path:
    (folder / "page.html.template").write_text(text, encoding="utf-8")
    return folder / "page.html.template"


def test_text_is_escaped_everywhere(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", template(tmp_path, TEMPLATE), title="<i>", text="<b>\"'&é")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("&lt;b&gt;&#34;&#39;&amp;é") == 4
    assert page.count("&lt;i&gt;") == 2
    assert "<b>" not in page
    assert "<i>" not in page
    assert "http" not in page


def test_a_template_that_names_what_there_is_not_leaves_the_old_page(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("old")
    with pytest.raises(jinja2.UndefinedError, match="'absent' is undefined"):
        write_page(tmp_path / "page.html", template(tmp_path, "{{ absent }}"))
    assert (tmp_path / "page.html").read_text() == "old"
