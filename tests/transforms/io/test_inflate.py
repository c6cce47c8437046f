"""Compressed voxels: damaged or of another length, they are refused."""

import bz2
import gzip
import random
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tests.transforms.io.text_headers import META, NRRD, RAW, VALUES, write
from tests.transforms.io.written import SHAPE, nifti, ramp
from transforms.io.readers import ImageError, read_image, read_label

# Large enough for Adler-32 (RFC 1950): the sum over a few small numbers is equal by chance now and then.
CLASSES = np.random.default_rng(1).integers(0, 3, (40, 36, 30)).astype(np.uint8)


def compressed(folder: Path, name: str, array: np.ndarray) -> tuple[Path, int]:
    """A compressed file, and where its voxels begin in it."""
    path = folder / name
    if name.endswith(".nii.gz"):
        return nifti(path, array), 10  # behind the header of gzip
    if name == "b.nrrd":
        kind = {"int16": "short", "uint8": "uchar"}[str(array.dtype)]
        sizes = " ".join(map(str, array.shape))
        write(path, NRRD, bz2.compress(array.tobytes(order="F")), encoding="bzip2", type=kind, sizes=sizes)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(array.T), str(path), True)
    raw = path.read_bytes()
    return path, raw.index(b"LOCAL\n") + 6 if name == "a.mha" else raw.index(b"\n\n") + 2


@pytest.mark.parametrize("name", ["a.mha", "a.nrrd", "b.nrrd", "a.nii.gz"])
@pytest.mark.parametrize(("read", "array"), [(read_image, VALUES), (read_label, CLASSES)])
def test_a_flipped_bit_or_a_cut_is_found_and_never_read_wrong(tmp_path, name, read, array):
    path, start = compressed(tmp_path, name, array)
    raw = path.read_bytes()
    np.testing.assert_array_equal(read(path).numpy()[0], array)
    chance = random.Random(7)
    refused = 0
    for number in range(60):
        damaged = bytearray(raw)
        if number % 3:
            damaged[chance.randrange(start, len(raw))] ^= 1 << chance.randrange(8)
        else:
            damaged = damaged[: chance.randrange(start, len(raw))]
        path.write_bytes(damaged)
        try:
            found = read(path).numpy()[0]
        except ImageError:
            refused += 1
            continue
        np.testing.assert_array_equal(found, array)
    assert refused >= 55  # bits of a gzip header that mean nothing may flip


@pytest.mark.parametrize("change", [-2, 2])
@pytest.mark.parametrize("name", ["a.mha", "a.nrrd"])
def test_a_whole_stream_of_another_length_is_refused(tmp_path, name, change):
    """The checksum is right, but these are the voxels of another image."""
    data = RAW[:change] if change < 0 else RAW + bytes(change)
    if name == "a.mha":
        path = write(tmp_path / name, META, zlib.compress(data), CompressedData="True")
    else:
        path = write(tmp_path / name, NRRD, gzip.compress(data), encoding="gzip")
    with pytest.raises(ImageError, match=r"cut off: .* bytes where|more than the 420 bytes that the header"):
        read_image(path)


def test_flipped_bit_in_a_gz_is_found_by_its_checksum(tmp_path):
    path = nifti(tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 9999, SHAPE).astype(np.int16))
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1  # in the stored length: the voxels are all there, but the proof fails
    path.write_bytes(raw)
    with pytest.raises(ImageError, match="damaged"):
        read_image(path)


def test_compression_is_told_by_content_not_by_name(tmp_path):
    array = ramp()
    nifti(tmp_path / "a.nii", array).rename(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(read_image(tmp_path / "b.nii.gz").numpy()[0], array)
