"""Intensities: the int16 codes that are stored of an image, and the float32 values that the network gets.

Each class defines both conversions, so that training patches from the store and whole volumes in inference use
the same arithmetic: `encode` once per image, `decode` on any part of the codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

import torch

from transforms.errors import ImageError, SettingError
from transforms.normalization import NORMALIZATIONS, normalization_word


class IntensityRecord(TypedDict, total=False):
    """The values per channel of one image that `decode` and `padding` need, in JSON types; empty for a CT.

    Attributes:
        mean, deviation: of the voxels that are not the minimum.
        padding: code of the minimum.
        step, offset: of values that are kept as they are: a code times the step, and the offset.
        channels: of an image whose channels are treated differently, the record of each.
    """

    mean: list[float]
    deviation: list[float]
    padding: list[int]
    step: list[float]
    offset: list[float]
    channels: list[IntensityRecord]


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


class FixedParameters(TypedDict):
    """A `RescaleTo01`, `RGBTo01` or `NoNormalization` in plain JSON types."""

    kind: Literal["rescale_to_0_1", "rgb_to_0_1", "no_norm"]


ChannelParameters = CTWindowParameters | ZScoreParameters | FixedParameters


class PerChannelParameters(TypedDict):
    """A `PerChannel` in plain JSON types."""

    kind: Literal["per_channel"]
    channels: list[ChannelParameters]


IntensityParameters = CTWindowParameters | ZScoreParameters | PerChannelParameters


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

    def hounsfield(self, values: torch.Tensor) -> torch.Tensor:
        """What the network sees back to HU, as far as the window kept them."""
        return (values + 1) * ((self.upper - self.lower) / 2) + self.lower

    def padding(self, record: IntensityRecord) -> list[int]:
        """The code of air; one for all channels."""
        return [round(self.lower)]


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

    def padding(self, record: IntensityRecord) -> list[int]:
        """The lowest code of any channel; one for all channels, see `PerChannel` for one each."""
        return [min(record["padding"])]


class RescaleTo01:
    """The smallest value of each channel of an image to 0 and the largest to 1."""

    STEPS = 32767

    def parameters(self) -> FixedParameters:
        return {"kind": "rescale_to_0_1"}

    def clip(self, volume: torch.Tensor) -> torch.Tensor:
        """(C, *spatial) of any real type as float32; nothing is cut off."""
        return volume.float()

    def encode(self, volume: torch.Tensor) -> tuple[torch.Tensor, IntensityRecord]:
        """(C, *spatial) to int16 codes of the same shape; nothing needs to be remembered."""
        codes = torch.empty(volume.shape, dtype=torch.int16)
        for channel, values in enumerate(volume.double()):
            low, high = torch.aminmax(values)
            codes[channel] = ((values - low) * (self.STEPS / (high - low).clamp_min(1e-8))).round()
        return codes, {}

    def decode(self, codes: torch.Tensor, record: IntensityRecord) -> torch.Tensor:
        """Codes (C, *spatial) to float32 in [0, 1]."""
        return codes.float().div_(self.STEPS)

    def padding(self, record: IntensityRecord) -> list[int]:
        """The code of the smallest value."""
        return [0]


class RGBTo01:
    """Pictures of 8 bits, 0 to 255, to 0 to 1. Codes count 128ths of a grey level."""

    STEPS = 128

    def parameters(self) -> FixedParameters:
        return {"kind": "rgb_to_0_1"}

    def clip(self, volume: torch.Tensor) -> torch.Tensor:
        """(C, *spatial) of any real type as float32.

        Raises:
            ImageError: it holds other values than a picture of 8 bits.
        """
        low, high = (float(value) for value in torch.aminmax(volume))
        if low < 0 or high > 255:
            raise ImageError(
                f"its values run from {low:g} to {high:g}, but the normalization rgb_to_0_1 is for pictures of 8 bits,"
                " 0 to 255; choose rescale_to_0_1 or zscore"
            )
        return volume.float()

    def encode(self, volume: torch.Tensor) -> tuple[torch.Tensor, IntensityRecord]:
        """(C, *spatial) of 0 to 255 to int16 codes of the same shape; nothing needs to be remembered."""
        return (volume * self.STEPS).round_().to(torch.int16), {}

    def decode(self, codes: torch.Tensor, record: IntensityRecord) -> torch.Tensor:
        """Codes (C, *spatial) to float32 in [0, 1]."""
        return codes.float().div_(255 * self.STEPS)

    def padding(self, record: IntensityRecord) -> list[int]:
        """The code of black."""
        return [0]


class NoNormalization:
    """Values as they are in the file, to 65,534 steps between the smallest and the largest of each channel."""

    STEPS = 32767

    def parameters(self) -> FixedParameters:
        return {"kind": "no_norm"}

    def clip(self, volume: torch.Tensor) -> torch.Tensor:
        """(C, *spatial) of any real type as float32; nothing is cut off."""
        return volume.float()

    def encode(self, volume: torch.Tensor) -> tuple[torch.Tensor, IntensityRecord]:
        """(C, *spatial) to int16 codes and what every channel's codes stand for."""
        codes = torch.empty(volume.shape, dtype=torch.int16)
        record: IntensityRecord = {"step": [], "offset": [], "padding": []}
        for channel, values in enumerate(volume.double()):
            low, high = (float(value) for value in torch.aminmax(values))
            step = (high - low) / (2 * self.STEPS) if high > low else 1.0
            offset = (low + high) / 2
            codes[channel] = ((values - offset) / step).round()
            record["step"].append(step)
            record["offset"].append(offset)
            record["padding"].append(int(codes[channel].min()))
        return codes, record

    def decode(self, codes: torch.Tensor, record: IntensityRecord) -> torch.Tensor:
        """Codes (C, *spatial) to the file's values, float32."""
        values = codes.float()
        for channel, step, offset in zip(values, record["step"], record["offset"], strict=True):
            channel.mul_(step).add_(offset)
        return values

    def padding(self, record: IntensityRecord) -> list[int]:
        """The code of the smallest value of each channel."""
        return record["padding"]


ChannelIntensity = CTWindow | ZScore | RescaleTo01 | RGBTo01 | NoNormalization


class PerChannel:
    """Each channel in its own way, padded with its own value.

    Args:
        schemes: one for every channel.
    """

    def __init__(self, schemes: Sequence[ChannelIntensity]) -> None:
        self.schemes = tuple(schemes)

    def parameters(self) -> PerChannelParameters:
        return {"kind": "per_channel", "channels": [scheme.parameters() for scheme in self.schemes]}

    def clip(self, volume: torch.Tensor) -> torch.Tensor:
        """(C, *spatial) of any real type to float32, CT channels within the window.

        Raises:
            ImageError: a channel cannot be treated as it should be.
        """
        return torch.cat([scheme.clip(part) for scheme, part in self._parts(volume)])

    def encode(self, volume: torch.Tensor) -> tuple[torch.Tensor, IntensityRecord]:
        """(C, *spatial) to int16 codes of the same shape and the record of every channel."""
        encoded = [scheme.encode(part) for scheme, part in self._parts(volume)]
        return torch.cat([codes for codes, _ in encoded]), {"channels": [record for _, record in encoded]}

    def decode(self, codes: torch.Tensor, record: IntensityRecord) -> torch.Tensor:
        """Codes (C, *spatial) to float32."""
        values = torch.empty(codes.shape, dtype=torch.float32, device=codes.device)
        for index, (scheme, part) in enumerate(self._parts(codes)):
            values[index : index + 1] = scheme.decode(part, record["channels"][index])
        return values

    def padding(self, record: IntensityRecord) -> list[int]:
        """The code of what lies outside, one for every channel."""
        return [
            scheme.padding(of_channel)[0]
            for scheme, of_channel in zip(self.schemes, record["channels"], strict=True)
        ]

    def _parts(self, volume: torch.Tensor) -> list[tuple[ChannelIntensity, torch.Tensor]]:
        return list(zip(self.schemes, volume.split(1), strict=True))


Intensity = CTWindow | ZScore | PerChannel


def intensity_for(
    normalization: Sequence[str] | str | None, window: Sequence[float] | None, channels: int
) -> Intensity:
    """What is done to an image's intensities.

    Args:
        normalization: a word of `NORMALIZATIONS` for every channel, or one for all. None takes CT for every channel
            where there is a window, else z-scores with one padding for all channels.
        window: (lower, upper) HU of channels that are CT.
        channels: how many an image has.

    Raises:
        SettingError: there are more or fewer words than channels, or a channel is CT and there is no window.
    """
    if normalization is None:
        return CTWindow(*window) if window is not None else ZScore()
    names = [normalization] * channels if isinstance(normalization, str) else list(normalization)
    if len(names) != channels or not all(isinstance(name, str) for name in names):
        raise SettingError(
            f"normalization is {names}, but images have {channels} channel(s); give one of"
            f" {', '.join(NORMALIZATIONS)} for each"
        )
    words = [normalization_word(name) for name in names]
    if "CT" in words and window is None:
        raise SettingError("normalization names a CT, but window is null; give window [lower, upper] in HU")
    if set(words) == {"CT"} and window is not None:
        return CTWindow(*window)
    if words == ["zscore"]:
        return ZScore()
    return PerChannel([_scheme(word, window) for word in words])


def intensity_from(parameters: IntensityParameters) -> Intensity:
    """The definition that `parameters()` described."""
    if parameters["kind"] == "per_channel":
        return PerChannel([_of_channel(each) for each in parameters["channels"]])
    found = _of_channel(parameters)
    assert isinstance(found, (CTWindow, ZScore))
    return found


def _of_channel(parameters: ChannelParameters) -> ChannelIntensity:
    if parameters["kind"] == "ct_window":
        return CTWindow(parameters["lower"], parameters["upper"])
    return _KINDS[parameters["kind"]]()


def _scheme(word: str, window: Sequence[float] | None) -> ChannelIntensity:
    if word == "CT" and window is not None:
        return CTWindow(*window)
    return _KINDS[{"zscore": "z_score", "noNorm": "no_norm"}.get(word, word)]()


_KINDS: dict[str, type[ZScore | RescaleTo01 | RGBTo01 | NoNormalization]] = {
    "z_score": ZScore,
    "rescale_to_0_1": RescaleTo01,
    "rgb_to_0_1": RGBTo01,
    "no_norm": NoNormalization,
}
