import re

from transforms.io.label_tables import LABEL_TABLES, write_label_tables
from transforms.utils.colours import colour_of

NAMES = {0: "background", 2: "left lung", 1: 'said "lesion"', 300: "\u809d\u81d3"}


def test_the_table_of_itk_snap_has_a_line_of_eight_fields_for_every_class(tmp_path):
    """ITK-SNAP reads lines by whitespace, up to the name between quotation marks."""
    write_label_tables(tmp_path, NAMES)
    lines = (tmp_path / LABEL_TABLES[0]).read_text(encoding="utf-8").splitlines()
    found = [re.fullmatch(r'\s*(\d+)((?:\s+\d+){6})\s+"([^"]*)"', line) for line in lines if line[0] != "#"]
    assert all(found)
    by_id = {int(m[1]): ([int(word) for word in m[2].split()], m[3]) for m in found if m}
    assert list(by_id) == [0, 1, 2, 300]
    assert by_id[0] == ([0, 0, 0, 0, 0, 0], "background")
    assert by_id[2] == ([*colour_of(2), 1, 1, 1], "left lung")
    assert by_id[1][1] == "said 'lesion'"
    assert by_id[300][1] == NAMES[300]


def test_the_colour_table_has_names_without_spaces(tmp_path):
    write_label_tables(tmp_path, NAMES)
    lines = (tmp_path / LABEL_TABLES[1]).read_text(encoding="utf-8").splitlines()
    rows = [line.split() for line in lines if line[0] != "#"]
    assert [len(row) for row in rows] == [6] * 4
    assert rows[0] == ["0", "background", "0", "0", "0", "0"]
    assert rows[2] == ["2", "left_lung", *map(str, colour_of(2)), "255"]
