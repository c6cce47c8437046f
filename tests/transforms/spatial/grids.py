"""Grids of any kind, and what lies on them."""

import numpy as np
import torch
from hypothesis import strategies as st

from transforms.spatial.geometry import Geometry
from transforms.spatial.restore import Restorer, slab_axis


def rotation(angles):
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [i for i in range(3) if i != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix


@st.composite
def affines(draw, max_angle=0.5, min_spacing=0.4, max_spacing=5.0):
    """Any order and direction of the axes, rotated, with any voxel size and origin."""
    order = draw(st.permutations(range(3)))
    signs = draw(st.lists(st.sampled_from([-1.0, 1.0]), min_size=3, max_size=3))
    angles = draw(st.lists(st.floats(-max_angle, max_angle), min_size=3, max_size=3))
    spacing = draw(st.lists(st.floats(min_spacing, max_spacing), min_size=3, max_size=3))
    affine = np.eye(4)
    affine[:3, :3] = rotation(angles) @ np.eye(3)[:, list(order)] @ np.diag(signs) @ np.diag(spacing)
    affine[:3, 3] = draw(st.lists(st.floats(-500, 500), min_size=3, max_size=3))
    return affine


def labels_from_probabilities(probabilities: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """Probabilities of a whole volume (C, *geometry.grid), given to a `Restorer` at once, as classes."""
    restorer = Restorer(geometry, probabilities.shape[0], slab_axis(geometry))
    restorer.push(probabilities)
    return restorer.labels()
