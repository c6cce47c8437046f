from .augmentation.patch_augmentation import PatchAugmentation as PatchAugmentation
from .dicom.image_reader import DicomSeriesReader as DicomSeriesReader
