from transforms.utils.colours import colour_of


def test_colours_of_a_hundred_classes_differ():
    colours = [colour_of(value) for value in range(1, 118)]
    assert len(set(colours)) == len(colours)
    assert all(0 <= part <= 255 for colour in colours for part in colour)


def test_neighbours_are_told_apart_beyond_the_first_sixteen():
    for value in range(1, 117):
        distance = sum(abs(a - b) for a, b in zip(colour_of(value), colour_of(value + 1), strict=True))
        assert distance > 100, value
