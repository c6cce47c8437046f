"""Whether a label map can be written for a series, known before there is one."""

import pytest

import tests.dicom_label_files as lf
from tests.dicom_label_files import meta_tensor
from tests.dicom_phantom import write_series
from tests.transforms.dicom.seg_frames import NAMES
from transforms.dicom.rehearsal import require_writable
from transforms.dicom.rtstruct_writer import write_rtstruct
from transforms.dicom.seg import write_seg
from transforms.dicom.series import scan_series
from transforms.errors import ImageError


@pytest.mark.parametrize("write", [write_seg, write_rtstruct])
def test_what_passes_is_written_later_and_nothing_before(tmp_path, ct, write):
    write_series(tmp_path / "ct", ct.slices())
    series, path = scan_series(tmp_path / "ct"), tmp_path / "out.dcm"
    require_writable(path, series, NAMES, write)
    assert not path.exists()
    write(path, meta_tensor(lf.label_map(ct.shape, ct.affine), series.affine), series, NAMES)
    assert path.is_file()


@pytest.mark.parametrize("write", [write_seg, write_rtstruct])
def test_what_the_writer_would_stumble_over_is_said(tmp_path, ct, write):
    slices = ct.slices()
    for image in slices:
        del image.FrameOfReferenceUID
    write_series(tmp_path / "ct", slices)
    with pytest.raises(ImageError, match=r"out\.dcm: .*has no FrameOfReferenceUID to refer to"):
        require_writable(tmp_path / "out.dcm", scan_series(tmp_path / "ct"), NAMES, write)
