"""Draw the pictures of docs/use_a_model.md, from files that `predict` and MONAI Label's server write.

    make client-pictures        # or: python -m docs.make_client_pictures --epochs 15

A model is trained on the public demo CT for some minutes; a second call takes the one that is there. MONAI Label comes
from PyPI into an environment of its own, or is in the folder that SEGBUNDLES_CLIENTS names.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path

import SimpleITK as sitk
from PIL import Image

from docs.small_pictures import save_small
from pipelines.data.demo import prepare_demo
from pipelines.deployment.packaging import assemble
from tests.e2e.commands import REPOSITORY, Workplace
from tests.e2e.monai_label import start_server
from transforms.io.readers import read_image, read_label
from transforms.visualization.preview import draw_preview

MODEL = "lungs"
"""As docs/use_a_model.md calls it in MONAI Label."""


def trained(folder: Path, epochs: int) -> tuple[Workplace, Path]:
    """A folder with r2unet trained on the demo, and the model as a packaged bundle."""
    place, bundle = Workplace(folder), folder / "r2unet"
    if not bundle.is_dir():
        words = place.planned_training("r2unet", "demo.json", epochs=epochs, dataset_dir=prepare_demo())
        place.run(words)
        assemble(REPOSITORY / "bundles" / "r2unet", bundle, place.root / "models")
    return place, bundle


def segments(path: Path) -> dict[int, str]:
    """Label value to name of each segment of a .seg.nrrd; its colours are those of every picture here."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    count = sum(key.endswith("_LabelValue") for key in reader.GetMetaDataKeys())
    return {
        int(reader.GetMetaData(f"Segment{index}_LabelValue")): reader.GetMetaData(f"Segment{index}_Name")
        for index in range(count)
    }


def answer_of_monai_label(bundle: Path, image: Path, target: Path) -> dict[int, str]:
    """Write the label that MONAI Label's /infer answers for an image; returns label value to name, as its /info has them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "studies").mkdir()
        # MONAI Label answers in the format of the image, and its page shows NIfTI.
        sitk.WriteImage(sitk.ReadImage(str(image)), str(folder / "studies" / "ctchest.nii.gz"))
        server = start_server(bundle, folder / "studies", folder, REPOSITORY / "build" / "clients")
        try:
            named = server.info()["models"][MODEL]["labels"]
            server.infer("ctchest", target)
        finally:
            server.stop()
    return {value: label for label, value in named.items()}


def draw(path: Path, image: Path, label: Path, names: Mapping[int, str], title: str) -> None:
    """Three planes of a CT with the label map of a file."""
    with tempfile.TemporaryDirectory() as folder:
        drawn = draw_preview(
            Path(folder) / "drawn.png", read_image(image), read_label(label), names, title=title
        )
        with Image.open(drawn) as picture:
            size = (3 * picture.width // 4, 3 * picture.height // 4)
            save_small(picture.resize(size, Image.Resampling.LANCZOS), path, rare=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "build" / "client_pictures")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "docs" / "images")
    parser.add_argument("--epochs", type=int, default=6, help="of the training (default: 6)")
    given = parser.parse_args()
    place, bundle = trained(given.folder.absolute(), given.epochs)
    image = prepare_demo() / "imagesTr" / "ctchest.nrrd"
    model = bundle / "models" / "model.pt"
    place.predict(image, model, "--format", "seg.nrrd", "--overwrite")
    segmentation = place.folder / "labels" / "ctchest.seg.nrrd"
    draw(
        given.output / "use_seg_nrrd.png",
        image,
        segmentation,
        segments(segmentation),
        "ctchest.seg.nrrd, by predict",
    )
    answer = place.folder / "answer.nii.gz"
    names = answer_of_monai_label(bundle, image, answer)
    draw(given.output / "use_monai_label.png", image, answer, names, "MONAI Label's answer to /infer")


if __name__ == "__main__":
    main()
