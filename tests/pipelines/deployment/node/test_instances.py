"""Names of what comes over the network."""

from io import BytesIO

import numpy as np
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from pipelines.deployment.node.instances import (
    STORAGE_CLASSES,
    TRANSFER_SYNTAXES,
    InstanceError,
    is_uid,
    read_instance,
)
from tests import dicom_phantom as ph


def content(**values):
    (image, *_) = ph.Phantom(shape=(4, 5, 6)).slices()
    for keyword, value in values.items():
        setattr(image, keyword, value)
    stream = BytesIO()
    image.save_as(stream, enforce_file_format=True)
    return stream.getvalue(), image


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "1..2",
        ".1",
        "1.",
        "../1",
        "1/2",
        "1\\2",
        "1.2\0",
        "1.2\n",
        "1.2 ",
        "C:1",
        "1." * 32 + "1",
        "²",
    ],
)
def test_what_is_no_uid(text):
    assert not is_uid(text)
    assert is_uid("1.2.840.10008.5.1.4.1.1.2")
    assert is_uid("0" * 64)


def test_the_uids_of_an_image():
    whole, image = content()
    found = read_instance(whole, image.SOPInstanceUID)
    assert found == (image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID)


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_a_uid_that_is_a_path_is_refused(keyword):
    whole, image = content(**{keyword: "1.2.3"})
    known = str(image[keyword].value)
    whole = whole.replace(known.encode() + b"\0", b"../../")
    assert b"../../" in whole
    with pytest.raises(InstanceError, match=rf"its {keyword} is '\.\./\.\./', which is no UID"):
        read_instance(whole, str(image.SOPInstanceUID))


def test_what_is_refused():
    whole, image = content()
    with pytest.raises(InstanceError, match=r"it was sent as '1\.2\.3' and calls itself"):
        read_instance(whole, "1.2.3")
    lacking, image = content(SeriesInstanceUID=None)
    with pytest.raises(InstanceError, match="it has no SeriesInstanceUID"):
        read_instance(lacking, str(image.SOPInstanceUID))
    random = np.random.default_rng(0)
    for length in (0, 10, 200, 5000):
        with pytest.raises(InstanceError):
            read_instance(random.bytes(length), str(image.SOPInstanceUID))


def test_only_what_is_read_is_taken():
    assert {uid.name.removesuffix(" Image Storage") for uid in STORAGE_CLASSES} == {
        "CT",
        "Enhanced CT",
        "Legacy Converted Enhanced CT",
    }
    assert DeflatedExplicitVRLittleEndian not in TRANSFER_SYNTAXES
    assert len(set(TRANSFER_SYNTAXES)) == len(TRANSFER_SYNTAXES)
