"""A MONAI Deploy application: a folder with a CT in DICOM in, DICOM SEG out, by a packaged bundle.

    python app.py --input DICOM_FOLDER --output FOLDER --model BUNDLE_FOLDER

The bundle is the unpacked zip of `make bundles`; it brings its own code. docs/use_a_model.md says what to install.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from monai.deploy.conditions import CountCondition
from monai.deploy.core import AppContext, Application
from monai.deploy.core.domain import Image
from monai.deploy.core.io_type import IOType
from monai.deploy.operators import (
    DICOMDataLoaderOperator,
    DICOMSegmentationWriterOperator,
    DICOMSeriesSelectorOperator,
    DICOMSeriesToVolumeOperator,
    MonaiBundleInferenceOperator,
)
from monai.deploy.operators.dicom_seg_writer_operator import SegmentDescription
from monai.deploy.operators.monai_bundle_inference_operator import BundleConfigNames, IOMapping

CT = json.dumps({"selections": [{"name": "CT", "conditions": {"Modality": "(?i)CT"}}]})


class Segmentation(Application):
    """Segments the CT series of a folder with a bundle's model.

    Args:
        images: folder with the DICOM files.
        output: folder for the segmentations.
        bundle: root of the packaged bundle.
    """

    def __init__(self, images: Path, output: Path, bundle: Path) -> None:
        self.images, self.output, self.bundle = images, output, bundle
        super().__init__([])

    def compose(self) -> None:
        """Connect the operators."""
        load = DICOMDataLoaderOperator(self, CountCondition(self, 1), input_folder=self.images, name="load")
        select = DICOMSeriesSelectorOperator(self, rules=CT, name="select")
        volume = DICOMSeriesToVolumeOperator(self, name="volume")
        infer = MonaiBundleInferenceOperator(
            self,
            app_context=AppContext({}),
            input_mapping=[IOMapping("image", Image, IOType.IN_MEMORY)],
            output_mapping=[IOMapping("pred", Image, IOType.IN_MEMORY)],
            bundle_path=self.bundle,
            bundle_config_names=BundleConfigNames(config_names=["inference"]),
            name="infer",
        )
        write = DICOMSegmentationWriterOperator(
            self, segment_descriptions=segments(self.bundle), output_folder=self.output, name="write"
        )
        self.add_flow(load, select, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(select, volume, {("study_selected_series_list", "study_selected_series_list")})
        self.add_flow(volume, infer, {("image", "image")})
        self.add_flow(select, write, {("study_selected_series_list", "study_selected_series_list")})
        self.add_flow(infer, write, {("pred", "seg_image")})


def segments(bundle: Path) -> list[SegmentDescription]:
    """The classes of a bundle's model with the codes that its own DICOM SEG have."""
    sys.path.insert(0, str(bundle))
    from transforms.dicom.segment_codes import segment_code

    card = json.loads((bundle / "models" / "model.json").read_text(encoding="utf-8"))
    found = []
    for _, name in sorted((int(value), name) for value, name in card["labels"].items() if int(value)):
        code = segment_code(name)
        found.append(
            SegmentDescription(
                segment_label=name,
                segmented_property_category=code.category,
                segmented_property_type=code.type,
                algorithm_name=bundle.name,
                algorithm_version=card["sha256"][:16],
            )
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("input", "output", "model"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    Segmentation(given.input, given.output, given.model.resolve()).run()


if __name__ == "__main__":
    main()
