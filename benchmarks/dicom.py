"""Time to read a CT series, compared with other readers, and to scan a large folder.

    python benchmarks/dicom.py                     # 512 x 512 x 150, 10,000 headers: about a minute
    python benchmarks/dicom.py --slices 60 --headers 1000

A series of noise on a ramp is written to a temporary folder, uncompressed, with the header of a usual scanner.
SimpleITK's ImageSeriesReader, MONAI's LoadImage with PydicomReader and the reader of this project read it in turn, in
one process. Reported are the medians of the rounds, after one round that fills the file system's cache. The values
read must be equal. The scan lists the volumes in a folder of small slices; no pixels are read.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def write_slices(folder: Path, size: int, count: int, series: int = 1) -> None:
    """`count` slices of `size` x `size`, 16 bits, every `series`-th part a series of its own."""
    from pydicom import dcmwrite
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    ramp = np.linspace(0, 2000, size)[:, None] + np.linspace(0, 500, size)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.Modality, image.ImageType = (
        CTImageStorage,
        "CT",
        ["ORIGINAL", "PRIMARY", "AXIAL"],
    )
    image.StudyInstanceUID, image.FrameOfReferenceUID = "1.2.3", "1.2.4"
    image.PatientName, image.StudyDescription, image.Manufacturer = "Benchmark", "CT", "None"
    image.ImageOrientationPatient, image.PixelSpacing = [1, 0, 0, 0, 1, 0], [0.75, 0.75]
    image.SliceThickness, image.KVP, image.ConvolutionKernel = 1, 120, "STANDARD"
    image.RescaleSlope, image.RescaleIntercept, image.RescaleType = 1, -1024, "HU"
    image.Rows = image.Columns = size
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    for index in range(count):
        image.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = f"1.2.5.{index + 1}"
        image.SeriesInstanceUID = f"1.2.6.{index * series // count + 1}"
        image.InstanceNumber, image.ImagePositionPatient = index + 1, [-190, -190, float(index)]
        image.PixelData = (ramp + random.integers(0, 100, (size, size))).astype("<u2").tobytes()
        image["PixelData"].VR = "OW"
        dcmwrite(folder / f"IM{index:05d}.dcm", image, enforce_file_format=True)


def simpleitk(folder: Path):
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()  # without the copy to an array


def pydicom_reader(folder: Path) -> np.ndarray:
    from monai.transforms import LoadImage

    return LoadImage(reader="PydicomReader", image_only=True)(folder).numpy()


def ours(folder: Path) -> np.ndarray:
    from transforms.dicom.series import read_series

    return read_series(folder)[0]


def seconds(run: Callable[[Path], object], folder: Path) -> float:
    start = time.perf_counter()
    run(folder)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512, help="rows and columns of a slice")
    parser.add_argument("--slices", type=int, default=150)
    parser.add_argument("--headers", type=int, default=10_000, help="small slices to scan, 0 for none")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    root = Path(tempfile.mkdtemp(prefix="dicom-"))
    try:
        folder = root / "series"
        write_slices(folder, options.size, options.slices)
        readers = {"simpleitk": simpleitk, "monai_pydicomreader": pydicom_reader, "ours": ours}
        import SimpleITK as sitk

        reference = sitk.GetArrayFromImage(simpleitk(folder)).transpose(2, 1, 0)
        for read in (pydicom_reader, ours):
            if not np.array_equal(read(folder), reference):
                raise SystemExit(f"{read.__name__} reads other values than SimpleITK")
        del reference
        times: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(options.rounds):
            for name, read in readers.items():
                times[name].append(seconds(read, folder))
        medians = {name: statistics.median(runs) for name, runs in times.items()}
        for name, runs in times.items():
            print(f"{name:20} {medians[name]:6.3f} s ({min(runs):.3f} to {max(runs):.3f})", flush=True)
        scan = None
        if options.headers:
            from transforms.dicom.series import find_volumes

            many = root / "many"
            write_slices(many, 8, options.headers, series=10)
            found = find_volumes(many)
            assert [volume.count for volume in found] == [options.headers // 10] * 10
            scan = statistics.median(seconds(find_volumes, many) for _ in range(3))
            print(f"scan of {options.headers} headers {scan:6.3f} s", flush=True)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    for name in ("simpleitk", "monai_pydicomreader"):
        print(
            f"RESULT read_seconds_vs_{name} ours={medians['ours']:.3f} peer={medians[name]:.3f}"
            f" ratio={medians['ours'] / medians[name]:.3f}"
        )
    if scan is not None:
        print(f"RESULT scan_seconds_{options.headers}_headers ours={scan:.2f}")


if __name__ == "__main__":
    main()
