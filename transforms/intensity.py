"""Intensities: the int16 codes that are stored of an image, and the float32 values that the network gets.

Each class defines both conversions, so that training patches from the store and whole volumes in inference use
the same arithmetic: `encode` once per image, `decode` on any part of the codes.
"""

from __future__ import annotations

from typing import Literal, TypedDict

import torch

from transforms.errors import SettingError


class IntensityRecord(TypedDict, total=False):
    """The values per channel of one image that `decode` and `padding` need, in JSON types; empty for a CT.

    Attributes:
        mean, deviation: of the voxels that are not the minimum.
        padding: code of the minimum.
    """

    mean: list[float]
    deviation: list[float]
    padding: list[int]


class CTWindowParameters(TypedDict):
    """A `CTWindow` in plain JSON types."""

    kind: Literal["ct_window"]
    lower: float
    upper: float


class ZScoreParameters(TypedDict):
    """A `ZScore` in plain JSON types."""

    kind: Literal["z_score"]
    step: float
    limit: float


class CTWindow:
    """Clip Hounsfield units to [lower, upper], store whole HU, scale to [-1, 1] for the network.

    Args:
        lower: HU that becomes -1; air outside the image is this value too.
        upper: HU that becomes +1.

    Raises:
        SettingError: the window is empty or leaves int16.
    """

    def __init__(self, lower: float, upper: float) -> None:
        if not -32768 <= lower < upper <= 32767:
            raise SettingError(f"the CT window [{lower}, {upper}] HU must rise and fit into 16 bits")
        self.lower = float(lower)
        self.upper = float(upper)

    def parameters(self) -> CTWindowParameters:
        return {"kind": "ct_window", "lower": self.lower, "upper": self.upper}

    def clip(self, volume: torch.Tensor) -> torch.Tensor:
        """Clip (C, *spatial) of any real type to the window, as float32; to be called before any interpolation.

        Otherwise padding of -2000 or -32768 around the field of view would be interpolated with its neighbours.
        """
        return volume.float().clamp(self.lower, self.upper)

    def encode(self, volume: torch.Tensor) -> tuple[torch.Tensor, IntensityRecord]:
        """(C, *spatial) HU to int16 codes of the same shape; the record is empty."""
        return volume.clamp(self.lower, self.upper).round_().to(torch.int16), {}

    def decode(self, codes: torch.Tensor, record: IntensityRecord) -> torch.Tensor:
        """Codes (C, *spatial) to float32 in [-1, 1]."""
        return codes.float().sub_(self.lower).mul_(2.0 / (self.upper - self.lower)).sub_(1.0)

    def padding(self, record: IntensityRecord) -> int:
        return round(self.lower)


class ZScore:
    """Zero mean and unit deviation per channel over the voxels that are not the image's minimum.

    For images without physical units (MR, photographs). Codes count thousandths of a deviation.
    """

    STEP = 1e-3
    LIMIT = 32.0

    def parameters(self) -> ZScoreParameters:
        return {"kind": "z_score", "step": self.STEP, "limit": self.LIMIT}

    def clip(self, volume: torch.Tensor) -> torch.Tensor:
        """(C, *spatial) of any real type as float32; nothing is clipped, as there is no window."""
        return volume.float()

    def encode(self, volume: torch.Tensor) -> tuple[torch.Tensor, IntensityRecord]:
        """(C, *spatial) to int16 codes and the mean and deviation of every channel."""
        codes = torch.empty(volume.shape, dtype=torch.int16)
        record: IntensityRecord = {"mean": [], "deviation": [], "padding": []}
        for channel, values in enumerate(volume.double()):
            inside = values[values > values.min()]
            inside = inside if inside.numel() > 1 else values
            mean = inside.mean()
            deviation = inside.std().clamp_min(1e-8) if inside.numel() > 1 else torch.tensor(1.0)
            scaled = ((values - mean) / deviation).clamp(-self.LIMIT, self.LIMIT)
            codes[channel] = (scaled / self.STEP).round().to(torch.int16)
            record["mean"].append(float(mean))
            record["deviation"].append(float(deviation))
            record["padding"].append(int(codes[channel].min()))
        return codes, record

    def decode(self, codes: torch.Tensor, record: IntensityRecord) -> torch.Tensor:
        """Codes (C, *spatial) to float32 deviations from the mean."""
        return codes.float().mul_(self.STEP)

    def padding(self, record: IntensityRecord) -> int:
        return min(record["padding"])
