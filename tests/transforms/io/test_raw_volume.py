"""Voxels beside or behind a header of text."""

import pytest

from tests.transforms.io.text_headers import META, NRRD, RAW, VALUES, assert_read, write
from transforms.io.itk import voxel_files
from transforms.io.readers import ImageError, read_header, read_image, read_label


def test_voxels_in_other_files(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "all.raw").write_bytes(RAW)
    for index in range(5):
        (tmp_path / f"s{index + 1:02d}.raw").write_bytes(VALUES[:, :, index].tobytes(order="F"))
    listed = "\n".join(f"s{index + 1:02d}.raw" for index in range(5))
    for name, stated in (
        ("a.mhd", "below/all.raw"),
        ("b.mhd", "s%02d.raw 1 5 1"),
        ("c.mhd", f"LIST\n{listed}"),
        ("d.mhd", f"LIST 2D\n{listed}"),
        ("e.mhd", "LIST 3D\nbelow/all.raw"),  # ITK returns what memory happens to hold
    ):
        path = write(tmp_path / name, META, b"", ElementDataFile=stated)
        assert_read(path)
        assert len(voxel_files(path)) == (1 if "below" in stated else 5)
        assert all(file.parent in (tmp_path, tmp_path / "below") for file in voxel_files(path))
    assert voxel_files(write(tmp_path / "f.mha", META)) == (tmp_path / "f.mha",)
    for name, stated in (
        ("a.nhdr", "below/all.raw"),
        ("b.nhdr", "s%02d.raw 1 5 1"),
        ("c.nhdr", f"LIST\n{listed}"),
        ("d.nhdr", f"LIST 2\n{listed}"),
    ):
        header = NRRD[:-1] + f"data file: {stated}\n"
        (tmp_path / name).write_text(header)
        assert_read(tmp_path / name)


ELSEWHERE = [
    "/etc/hostname",
    "../secret.raw",
    "below/../../secret.raw",
    "C:\\secret.raw",
    "\\\\host\\secret.raw",
]


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize("form", ["{}", "LIST\n{}", "{}%d 1 5 1"])
def test_a_header_shows_no_file_from_elsewhere(tmp_path, name, form):
    folder = tmp_path / "data"
    (folder / "below").mkdir(parents=True)
    for secret in ["secret.raw", *(f"secret.raw{index}" for index in range(1, 6))]:
        (tmp_path / secret).write_bytes(RAW)
    for path, header, key in (("a.mhd", META, "ElementDataFile"), ("a.nhdr", NRRD, "data_file")):
        stated = form.format(name)
        write(folder / path, header, b"", **{key: stated})
        for read in (read_header, read_image, read_label):
            with pytest.raises(ImageError, match=rf"{path}: the header names the file of voxels"):
                read(folder / path)


def test_more_bytes_than_voxels_are_noticed(tmp_path, caplog):
    assert_read(write(tmp_path / "a.mha", META, RAW + b"\n"))
    assert not caplog.records
    assert_read(write(tmp_path / "b.mha", META, RAW + RAW))
    assert "420 more bytes follow the voxels" in caplog.text
