"""Segmentation networks, made of torch and MONAI layers."""

from __future__ import annotations

from .r2unet import R2UNet
from .strides import strides_for
from .upernet import UPerNet

__all__ = ["R2UNet", "UPerNet", "strides_for"]
