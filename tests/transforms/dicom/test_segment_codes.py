"""Names of classes to codes of SNOMED CT."""

from __future__ import annotations

import pytest

from transforms.dicom.segment_codes import segment_code

KNOWN = {  # value of the type, side; from PS3.16 and the SNOMED CT browser
    "liver": ("10200004", None),
    "left lung": ("39607008", "Left"),
    "lung_left": ("39607008", "Left"),
    "Lung_R": ("39607008", "Right"),
    "spinal_cord": ("2748008", None),
    "parotid right": ("45289007", "Right"),
    "brainstem": ("119238007", None),
    "lung_upper_lobe_left": ("45653009", "Left"),
    "lung_middle_lobe_right": ("72481006", None),
    "vertebrae_L5": ("49668003", None),
    "rib_left_4": ("113197003", "Left"),
    "heart_atrium_left": ("82471001", None),
    "urinary_bladder": ("89837001", None),
    "inferior_vena_cava": ("64131007", None),
    "kidney_cyst_left": ("367643001", "Left"),
    "tumour": ("108369006", None),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_names(name):
    code = segment_code(name)
    assert (code.type.value, code.modifier and code.modifier.meaning) == KNOWN[name]
    assert code.type.scheme_designator == "SCT"
    lesion = code.type.value in ("367643001", "108369006")
    assert code.category.value == ("49755003" if lesion else "91723000")


def test_unknown_names_claim_nothing_but_tissue():
    for name in ("class_1", "thing", "left", "aktivität"):
        code = segment_code(name)
        assert (code.category.value, code.type.value) == ("85756007", "85756007")
    assert segment_code("thing_left").modifier.meaning == "Left"


def test_codes_of_the_user_go_first():
    own = {"Left Lung": {"type": ["1", "99X", "Mine"], "modifier": ["2", "99X", "Side"]}}
    code = segment_code("left_lung", own)
    assert (code.type.value, code.modifier.value, code.category.value) == ("1", "2", "91723000")
    for wrong in (["1", "99X"], "10200004", None, ["1", "99X", ""]):
        with pytest.raises(ValueError, match=r"'liver'.*give"):
            segment_code("liver", {"liver": {"type": wrong}})
