"""Frames of SEGs, and the CT that they are of."""

import tests.dicom_label_files as lf

NAMES = {0: "background", 1: "left lung", 2: "Tumor", 3: "spinal_cord"}
SEGMENTS = {1: "Left_Lung", 2: " tumor ", 3: "spinal-cord"}


def by_segment(ct, kind="BINARY", planes=2):
    """Frames of all segments of the regions on the grid of a CT."""
    array = lf.label_map(ct.shape, ct.affine)
    frames = []
    for segment in SEGMENTS:
        level = 200 if kind == "FRACTIONAL" else 1
        cut, cosines, spacing = lf.frames_of((array == segment) * level, ct.affine, planes)
        frames += [(segment, position, frame) for position, frame in cut]
    return array, frames, cosines, spacing
