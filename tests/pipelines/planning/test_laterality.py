"""Left and right: by words in any place of a name, and by where classes lie."""

import numpy as np
import pytest

from pipelines.planning.laterality import left_right_pairs


def named(*names):
    return {0: "background", **dict(enumerate(names, start=1))}


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("left_kidney", "right_kidney"),
        ("LeftParotid", "RightParotid"),
        ("Parotid_L", "Parotid_R"),
        ("LKidney", "RKidney"),
        ("kidney-LT", "kidney-RT"),
        ("Lt. Lung", "Rt. Lung"),
        ("lung (l)", "lung (r)"),
        ("l lung", "R LUNG"),
        ("left lung", "lung_right"),
        ("rib_left_1", "rib_right_1"),
        ("leftlung", "rightlung"),
        ("pulmo sinister", "pulmo dexter"),
        ("auricula sinistra", "auricula dextra"),
        ("atrium sinistrum", "atrium dextrum"),
        ("ren_sin", "ren_dex"),
        ("ctx-lh-cuneus", "ctx-rh-cuneus"),
        ("linke Niere", "rechte Niere"),
        ("poumon gauche", "poumon droit"),
        ("lung_LUL", "lung_RUL"),
        ("vertebra_L1_left_pedicle", "vertebra_L1_right_pedicle"),
        ("left lung left lobe", "right lung right lobe"),
        ("左肾", "右肾"),
        ("left", "right"),
    ],
)
def test_pairs_by_name(left, right):
    assert left_right_pairs(named(left, right), []) == [{"left": 1, "right": 2, "by": "name"}]
    assert left_right_pairs(named("liver", right, left), []) == [{"left": 3, "right": 2, "by": "name"}]


@pytest.mark.parametrize(
    "names",
    [
        ("lung_lower_lobe", "lung_upper_lobe"),
        ("left_lung", "right_kidney"),
        ("lung", "rung"),
        ("vertebrae_L1", "vertebrae_S1"),
        ("rib_left_1", "rib_right_2"),
        ("LV", "RV"),
        ("liver", "rliver2"),
        ("cleft", "lip"),
        ("anterior", "posterior"),
        ("left_lung", "lung"),
        ("gland_L", "Gland Left", "gland_r"),
    ],
)
def test_no_pairs_by_name(names):
    assert left_right_pairs(named(*names), []) == []


def test_ribs_find_each_their_own():
    names = named(*(f"rib_{side}_{n}" for n in range(1, 13) for side in ("left", "right")), "sternum")
    pairs = left_right_pairs(names, [])
    assert [(pair["left"], pair["right"]) for pair in pairs] == [(n, n + 1) for n in range(1, 25, 2)]


# -- by place ----------------------------------------------------------------------------------------------


def record(centre, extent=(40.0, 60.0, 100.0), voxels=1000):
    return {"voxels": voxels, "centre": list(centre), "extent": list(extent), "millilitres": voxels / 1000}


def case(**classes):
    shape, spacing = [100, 100, 100], [4.0, 4.0, 4.0]
    return {
        "shape": shape,
        "spacing": spacing,
        "classes": {key.strip("c"): each for key, each in classes.items()},
    }


def cohort(count=10, voxels=(1000, 1100), first=(0.3, 0.5, 0.5), second=(0.7, 0.5, 0.5), seed=0):
    random = np.random.default_rng(seed)
    return [
        case(
            c1=record(np.array(first) + random.normal(0, 0.01, 3), voxels=voxels[0]),
            c2=record(np.array(second) + random.normal(0, 0.01, 3), voxels=voxels[1]),
        )
        for _ in range(count)
    ]


def test_pairs_by_place():
    assert left_right_pairs(named("a", "b"), cohort()) == [{"left": 1, "right": 2, "by": "place"}]
    swapped = cohort(first=(0.7, 0.5, 0.5), second=(0.3, 0.5, 0.5))
    assert left_right_pairs(named("a", "b"), swapped) == [{"left": 2, "right": 1, "by": "place"}]
    assert left_right_pairs(named("x_l", "x_r"), cohort())[0]["by"] == "name and place"
    # The names say which is which; that they lie the other way round does not confirm them.
    assert left_right_pairs(named("x_l", "x_r"), swapped) == [{"left": 1, "right": 2, "by": "name"}]


def test_one_odd_case_of_many_is_passed_over():
    odd = cohort(1, first=(0.3, 0.2, 0.5))
    assert len(left_right_pairs(named("a", "b"), cohort(19) + odd)) == 1
    assert left_right_pairs(named("a", "b"), cohort(3) + odd) == []


@pytest.mark.parametrize(
    "cases",
    [
        cohort(2),
        cohort(voxels=(1000, 4000)),
        cohort(first=(0.5, 0.3, 0.5), second=(0.5, 0.7, 0.5)),
        cohort(first=(0.1, 0.5, 0.5), second=(0.5, 0.5, 0.5)),
        cohort(first=(0.3, 0.5, 0.2)),
        cohort(first=(0.49, 0.5, 0.5), second=(0.51, 0.5, 0.5)),
        [
            each
            for seed in range(5)
            for pair in (((0.3, 0.7), (0.7, 0.3)))
            for each in cohort(1, first=(pair[0], 0.5, 0.5), second=(pair[1], 0.5, 0.5), seed=seed)
        ],
    ],
    ids=[
        "two cases",
        "unlike volumes",
        "front and back",
        "off the middle",
        "unlike height",
        "the same place",
        "either side",
    ],
)
def test_no_pairs_by_place(cases):
    assert left_right_pairs(named("a", "b"), cases) == []


def test_pictures_have_no_sides_by_place():
    flat = [{**each, "shape": [100, 100], "spacing": [1.0, 1.0]} for each in cohort()]
    for each in flat:
        for found in each["classes"].values():
            found["centre"], found["extent"] = found["centre"][:2], found["extent"][:2]
    assert left_right_pairs(named("a", "b"), flat) == []
    assert left_right_pairs(named("disc_OS", "disc_OD"), flat) == [{"left": 1, "right": 2, "by": "name"}]


def test_a_class_is_in_one_pair_and_a_side_in_a_name_counts():
    cases = [
        case(
            c1=record((0.3, 0.5, 0.5)),
            c2=record((0.7, 0.5, 0.5)),
            c3=record((0.72, 0.52, 0.5)),
            c4=record((0.3, 0.4, 0.9)),
        )
        for _ in range(5)
    ]
    assert left_right_pairs(named("a", "b", "c", "d"), cases) == [{"left": 1, "right": 2, "by": "place"}]
    # Unlike a pair that is named, "left lung" is not the partner of a class without a side.
    assert left_right_pairs(named("left a", "b", "c", "d"), cases) == []


def test_classes_that_are_missing_in_some_cases():
    cases = cohort()
    for each in cases[:6]:
        each["classes"]["2"] = {"voxels": 0, "centre": [], "extent": [], "millilitres": 0.0}
    assert len(left_right_pairs(named("a", "b"), cases)) == 1
