from .augmentation.patch_augmentation import PatchAugmentation as PatchAugmentation
from .dicom.image_reader import DicomSeriesReader as DicomSeriesReader
from .dictionary import LoadOriginald as LoadOriginald
from .dictionary import RestoreLabelsd as RestoreLabelsd
from .dictionary import ToNetworkGridd as ToNetworkGridd
