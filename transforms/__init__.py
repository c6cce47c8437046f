"""What happens to one image: readers, geometry, intensity, augmentation, writers."""

from transforms.augment import PatchAugmentation
from transforms.dicom import DicomSeriesReader
from transforms.readers import read_header, read_image, read_label
from transforms.writers import write_label

__all__ = ["DicomSeriesReader", "PatchAugmentation", "read_header", "read_image", "read_label", "write_label"]
