"""From LPS+ to RAS+ and back."""

import nibabel as nib
import numpy as np

from transforms.utils.coordinates import LPS_RAS


def test_left_and_posterior_turn_round() -> None:
    assert nib.aff2axcodes(LPS_RAS) == ("L", "P", "S")
    assert np.array_equal(LPS_RAS @ LPS_RAS, np.eye(4))
