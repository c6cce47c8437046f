"""What every picture of a volume shares."""

from transforms.visualization.preview import colour_of


def test_every_class_has_a_colour():
    assert len({colour_of(value) for value in range(1, 17)}) == 16
    assert colour_of(300) == colour_of(300 - 16)
