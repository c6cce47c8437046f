"""How many names a sentence gives."""

from transforms.utils.sentences import few_of


def test_all_names_are_given_where_they_are_few() -> None:
    assert few_of([], 3) == ""
    assert few_of(["liver"], 1) == "liver"
    assert few_of(["liver", "spleen"], 2, last=" and ") == "liver and spleen"


def test_many_names_are_counted() -> None:
    assert few_of((f"case_{n}" for n in range(1235)), 1) == "case_0 and 1,234 more"
