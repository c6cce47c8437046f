"""Mapping of class names to the coded terms that DICOM requires.

A segment has a category and a type, each a code of a terminology (PS3.3 C.8.20.2, Segment Description macro), and
the type may have a modifier such as left or right. Terms come from SNOMED CT by way of pydicom's dictionaries of
PS3.16: CID 7192 (anatomical structures), CID 4031 (anatomic regions) and CID 7159 (lesions), with CID 244 (laterality).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from transforms.dicom.segment_names import plain_name
from transforms.errors import SettingError

__all__ = ["SegmentCode", "segment_code"]

_ANATOMY = Code("91723000", "SCT", "Anatomical Structure")
_LESION = Code("49755003", "SCT", "Morphologically Abnormal Structure")
_TISSUE = Code("85756007", "SCT", "Tissue")
_SIDES = {"left": Code("7771000", "SCT", "Left"), "right": Code("24028007", "SCT", "Right")}
_SIDES |= {"l": _SIDES["left"], "lt": _SIDES["left"], "r": _SIDES["right"], "rt": _SIDES["right"]}

# Spellings of data sets (TotalSegmentator, MSD, OpenKBP, BTCV, AMOS) for the meanings of SNOMED CT.
_MEANINGS = {
    "adrenal": "adrenal gland",
    "autochthon": "muscle",
    "brainstem": "brain stem",
    "cancer": "neoplasm",
    "chiasm": "optic chiasm",
    "clavicula": "clavicle",
    "costal cartilages": "costal cartilage",
    "gall bladder": "gallbladder",
    "gluteus maximus": "muscle",
    "gluteus medius": "muscle",
    "gluteus minimus": "muscle",
    "heart myocardium": "myocardium",
    "hepatic vessel": "blood vessel",
    "iliac vena": "iliac vein",
    "iliopsoas": "muscle",
    "kidney cyst": "cyst",
    "liver tumor": "neoplasm",
    "liver tumour": "neoplasm",
    "lung lower lobe": "lower lobe of lung",
    "lung middle lobe": "middle lobe of right lung",
    "lung upper lobe": "upper lobe of lung",
    "oesophagus": "esophagus",
    "optic chiasma": "optic chiasm",
    "parotid": "parotid gland",
    "pituitary gland": "pituitary",
    "portal vein and splenic vein": "blood vessel",
    "postcava": "inferior vena cava",
    "small bowel": "small intestine",
    "thyroid gland": "thyroid",
    "tumor": "neoplasm",
    "tumour": "neoplasm",
    "urinary bladder": "bladder",
}
_MORE = (
    "BrachiocephalicTrunk",
    "BrachiocephalicVein",
    "CostalCartilage",
    "FemoralHead",
    "Lens",
    "Muscle",
    "OpticChiasm",
    "OpticNerve",
    "SeminalVesicle",
    "Skull",
)
"""Anatomical terms that are in none of those collections, by keyword of SNOMED CT."""
_CHAMBERS = {"atrium": ("left atrium", "right atrium"), "ventricle": ("left ventricle", "right ventricle")}


@dataclass(frozen=True)
class SegmentCode:
    """Coded property of a segment.

    Attributes:
        category, type: SegmentedPropertyCategory and SegmentedPropertyType.
        modifier: SegmentedPropertyTypeModifier, for instance the side.
    """

    category: Code
    type: Code
    modifier: Code | None = None


def segment_code(name: str, own: Mapping[str, Mapping[str, Sequence[str]]] | None = None) -> SegmentCode:
    """Return the coded property of a class.

    Args:
        name: such as "left lung", "lung_left", "spinal_cord", "vertebrae_L5".
        own: codes of the user by class name, which take precedence: ``{"name": {"category": [value, scheme,
            meaning], "type": [...], "modifier": [...]}}``; "category" may be left out (anatomical structure),
            and so may "modifier".

    Returns:
        For a name that is in no dictionary, category and type are Tissue (85756007, SCT), as in 3D Slicer and
        dcmqi: it is the least specific term that the standard allows.

    Raises:
        SettingError: a code in `own` is not three texts.
    """
    for key, entry in (own or {}).items():
        if plain_name(key) == plain_name(name):
            return SegmentCode(
                _code(key, entry["category"]) if entry.get("category") else _ANATOMY,
                _code(key, entry.get("type")),
                _code(key, entry["modifier"]) if entry.get("modifier") else None,
            )
    words = plain_name(name).split()
    side = next((_SIDES[word] for word in words if word in _SIDES), None)
    rest = " ".join(word for word in words if word not in _SIDES)
    rest = re.sub(r"^(rib)s? \d+$", r"\1", rest)
    rest = re.sub(r"^vertebrae? ([ctls]\d+)$", r"\1 vertebra", rest)
    for chamber in _CHAMBERS:  # the dictionary has one term for each
        if side is not None and rest in (f"heart {chamber}", chamber):
            rest, side = f"{side.meaning.lower()} {chamber}", None
    meaning = _MEANINGS.get(rest, rest)
    if side is not None and side.meaning.lower() in meaning.split():
        side = None
    anatomy, lesions = _dictionaries()
    for whole, modifier in ((" ".join(words), None), (meaning, side)):
        for dictionary, category in ((anatomy, _ANATOMY), (lesions, _LESION)):
            if whole in dictionary:
                return SegmentCode(category, dictionary[whole], modifier)
    return SegmentCode(_TISSUE, _TISSUE, side)


def _code(name: str, value: Any) -> Code:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 3 or not all(value):
        raise SettingError(
            f'the code of {name!r} is {value!r}; give ["value", "scheme", "meaning"], for instance'
            ' ["10200004", "SCT", "Liver"].'
        )
    return Code(*(str(part) for part in value))


@lru_cache(maxsize=1)
def _dictionaries() -> tuple[dict[str, Code], dict[str, Code]]:
    """Return code by meaning (in plain spelling) of anatomical structures and of lesions."""

    def read(*collections: Any) -> dict[str, Code]:
        found: dict[str, Code] = {}
        for collection in collections:
            for keyword in collection.dir():
                code = getattr(collection, keyword)
                if code.scheme_designator == "SCT":
                    found.setdefault(plain_name(code.meaning), code)
        return found

    anatomy = read(codes.cid7192, codes.cid4031)
    for keyword in _MORE:
        code = getattr(codes.SCT, keyword)
        anatomy.setdefault(plain_name(code.meaning), code)
    return anatomy, read(codes.cid7159)
