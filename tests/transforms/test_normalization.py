"""The words for what is done to a channel."""

import pytest

from transforms.normalization import NORMALIZATIONS, normalization_word


@pytest.mark.parametrize("word", NORMALIZATIONS)
def test_a_word_is_known_in_any_spelling(word):
    assert normalization_word(word) == normalization_word(word.upper()) == word


@pytest.mark.parametrize("name", ["T1", "FLAIR", "PET", ""])
def test_any_other_name_means_z_scores(name):
    assert normalization_word(name) == "zscore"
