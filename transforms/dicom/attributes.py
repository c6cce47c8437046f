"""The DICOM attributes that reading a CT needs, and where an enhanced image keeps them (PS3.3 C.7.6.16 and C.8.15.3)."""

from __future__ import annotations

from pydicom.datadict import dictionary_VR, tag_for_keyword

__all__ = ["BINARY", "GROUPS", "MULTI_FRAME", "NAMES", "TOP", "UNITS", "VR"]

UNITS = "RealWorldValueMappingSequence"
"""Stored as the code values of its MeasurementUnitsCodeSequence (UCUM, such as ``[hnsf'U]``)."""

# The functional group macro that holds an attribute of a frame.
GROUPS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth"),
    "CTImageFrameTypeSequence": ("FrameType", "VolumetricProperties"),
    "CTAcquisitionTypeSequence": ("AcquisitionType",),
    "CTAcquisitionDetailsSequence": (
        "GantryDetectorTilt",
        "DataCollectionDiameter",
        "SingleCollimationWidth",
    ),
    "CTReconstructionSequence": (
        "ConvolutionKernel",
        "ConvolutionKernelGroup",
        "ReconstructionAlgorithm",
        "ReconstructionDiameter",
    ),
    "CTXRayDetailsSequence": ("KVP", "FilterType"),
    "CardiacSynchronizationSequence": (
        "NominalPercentageOfCardiacPhase",
        "NominalCardiacTriggerDelayTime",
        "ActualCardiacTriggerDelayTime",
    ),
    "RespiratorySynchronizationSequence": (
        "NominalPercentageOfRespiratoryPhase",
        "NominalRespiratoryTriggerDelayTime",
        "ActualRespiratoryTriggerDelayTime",
    ),
    "TemporalPositionSequence": ("TemporalPositionTimeOffset",),
    "IrradiationEventIdentificationSequence": ("IrradiationEventUID",),
    "FrameContentSequence": (
        "StackID",
        "TemporalPositionIndex",
        "FrameAcquisitionNumber",
        "FrameAcquisitionDateTime",
        "FrameReferenceDateTime",
    ),
}
_ATTRIBUTES = (
    # kind of image, and patient
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "ImageType",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "FrameOfReferenceUID",
    "SeriesNumber",
    "SeriesDescription",
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    # position
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "PixelSpacing",
    "SliceThickness",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "VolumetricProperties",
    # meaning of the values
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "ModalityLUTSequence",
    UNITS,
    "MultienergyCTAcquisition",
    # scan and reconstruction
    "StudyID",
    "AccessionNumber",
    "AcquisitionUID",
    "IrradiationEventUID",
    "AcquisitionNumber",
    "AcquisitionDate",
    "AcquisitionTime",
    "AcquisitionDateTime",
    "SeriesDate",
    "SeriesTime",
    "TemporalPositionIdentifier",
    "NominalPercentageOfCardiacPhase",
    "TriggerTime",
    "ProtocolName",
    "BodyPartExamined",
    "PatientPosition",
    "ContrastBolusAgent",
    "Manufacturer",
    "ManufacturerModelName",
    "StationName",
    "DeviceSerialNumber",
    "SoftwareVersions",
    "ScanOptions",
    "KVP",
    "FilterType",
    "GantryDetectorTilt",
    "DataCollectionDiameter",
    "SingleCollimationWidth",
    "TotalCollimationWidth",
    "SpiralPitchFactor",
    "ConvolutionKernel",
    "ReconstructionDiameter",
    "WindowCenter",
    "WindowWidth",
    "DerivationDescription",
)
MULTI_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
TOP = frozenset(_ATTRIBUTES)
VR = {name: dictionary_VR(name) for name in (*_ATTRIBUTES, *(n for names in GROUPS.values() for n in names))}
NAMES = {tag_for_keyword(name): name for name in VR}
BINARY = {"US": "H", "SS": "H", "US or SS": "H", "UL": "I", "SL": "i", "FD": "d", "FL": "f"}
