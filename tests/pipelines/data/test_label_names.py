"""Classes, regions and the ignore label in every spelling, and what is refused."""

import pytest

from pipelines.data.label_names import LabelsError, label_names

BRATS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}


@pytest.mark.parametrize(
    ("labels", "names", "segments"),
    [
        (
            BRATS,
            {0: "background", 1: "whole without core", 2: "core without enhancing", 3: "enhancing"},
            {1: "whole", 2: "core", 3: "enhancing"},
        ),
        # 1 lies in the core and 2 around it: no order of painting by rising values tells them apart.
        (
            {"background": 0, "whole": [1, 2, 3], "core": [1, 3], "enhancing": [3]},
            {0: "background", 1: "core without enhancing", 2: "whole without core", 3: "enhancing"},
            {1: "core without enhancing", 2: "whole without core", 3: "enhancing"},
        ),
        # Overlapping without one holding the other.
        (
            {"background": 0, "left": [1, 2], "right": [2, 3]},
            {0: "background", 1: "label 1", 2: "label 2", 3: "label 3"},
            {1: "label 1", 2: "label 2", 3: "label 3"},
        ),
        (
            {"background": 0, "label 1": [1, 2], "other": [2, 3]},
            {0: "background", 1: "only label 1", 2: "label 2", 3: "label 3"},
            {1: "only label 1", 2: "label 2", 3: "label 3"},
        ),
    ],
)
def test_values_of_regions_have_names_of_their_own(labels, names, segments):
    found = label_names({"labels": labels})
    assert found.labels == names
    assert found.segments == {0: "background", **segments}
    assert list(found.regions) == [name for name in labels if name != "background"]


def test_regions_of_one_value_each_are_classes():
    found = label_names({"labels": {"background": 0, "liver": [1], "cyst": [2]}})
    assert found.labels == {0: "background", 1: "liver", 2: "cyst"}
    assert found.regions == {}


@pytest.mark.parametrize(
    "labels", [{"0": "background", "1": "liver", "2": "ignore"}, {"background": 0, "liver": 1, "ignore": 2}]
)
def test_what_is_to_be_ignored_is_no_class(labels):
    found = label_names({"labels": labels})
    assert found.labels == {0: "background", 1: "liver"}
    assert found.ignore == 2
    assert found.segments == {0: "background", 1: "liver", 2: "ignore"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": {**BRATS, "ignore": 3}}, "ignore label 3; it must be one value above all others, 4"),
        ({"labels": {**BRATS, "ignore": [4, 5]}}, r"ignore label \[4, 5\]; it must be one value"),
        ({"labels": {**BRATS, "all": [3, 2, 1]}}, "'whole' and 'all' of the same values"),
        ({"labels": {**BRATS, "none": []}}, r"region 'none' of \[\]"),
        ({"labels": {**BRATS, "twice": [1, 1]}}, r"region 'twice' of \[1, 1\]; name each of its values once"),
        (
            {"labels": {**BRATS, "air": [0, 1]}},
            r"region 'air' of \[0, 1\]; .*the background, only for itself",
        ),
        ({"labels": {**BRATS, "air": 0}}, "value 0 two names"),
        ({"labels": {**BRATS, "half": [1.5]}}, "does not map class ids"),
        (
            {"labels": BRATS, "regions_class_order": [1, 2]},
            r"is \[1, 2\]; .*each of the 3 regions whole, core",
        ),
        ({"labels": BRATS, "regions_class_order": [1, 2, 2]}, "a different value"),
        ({"labels": BRATS, "regions_class_order": [1, 2, 7]}, "value of the label maps"),
        ({"labels": BRATS, "regions_class_order": 3}, '"regions_class_order" is 3'),
    ],
)
def test_what_cannot_be_certain_is_refused(content, message):
    with pytest.raises(LabelsError, match=message):
        label_names(content)
