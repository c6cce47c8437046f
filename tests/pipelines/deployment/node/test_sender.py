"""Sending results, with pynetdicom as the destination."""

import itertools

import pydicom
import pytest
from monai.data import MetaTensor
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, SegmentationStorage

from pipelines.deployment.node.network import Destination, Limits
from pipelines.deployment.node.sender import RefusedError, Sender, UnreachableError
from tests.pipelines.deployment.node.peers import destination
from tests.pipelines.tiny_model import write_dicom
from transforms.dicom.rtstruct_writer import write_rtstruct
from transforms.dicom.seg import write_seg
from transforms.dicom.series import scan_series

LIMITS = Limits(timeout=20)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A SEG (deflated) and an RTSTRUCT (implicit VR)."""
    folder = tmp_path_factory.mktemp("results")
    label = write_dicom(folder / "ct")
    source = scan_series(folder / "ct")
    label = MetaTensor(label[None], affine=source.affine)
    names = {1: "lung", 2: "liver"}
    return [
        write_seg(folder / "a.seg.dcm", label, source, names),
        write_rtstruct(folder / "b.rtstruct.dcm", label, source, names),
    ]


def require_same(found, written):
    # The VR of pixels is another one with implicit VR.
    pixels = [dataset.pop("PixelData", None) for dataset in (found, written)]
    assert found == written
    assert len({None if element is None else bytes(element.value) for element in pixels}) == 1


def sender(port, title="PACS"):
    return Sender(Destination(title, "127.0.0.1", port), "SEGBUNDLES", LIMITS)


def test_results_arrive_as_they_are(results):
    sent = []
    with destination(contexts=(SegmentationStorage, RTStructureSetStorage)) as (port, taken):
        sender(port).send(results, sent.append)
    assert sent == results
    for path, found in zip(results, taken, strict=True):
        require_same(found, pydicom.dcmread(path))


def test_results_come_in_the_encoding_that_the_destination_takes(results):
    contexts = (SegmentationStorage, RTStructureSetStorage)
    with destination(contexts=contexts, syntaxes=[ImplicitVRLittleEndian]) as (port, taken):
        sender(port).send(results, print)
    for path, found in zip(results, taken, strict=True):
        require_same(found, pydicom.dcmread(path))


def test_a_destination_that_is_not_there_or_has_no_room(results):
    with destination(status=lambda: 0xA700) as (port, taken):
        with pytest.raises(UnreachableError, match=rf"PACS@127.0.0.1:{port} answers status A700"):
            sender(port).send(results[:1], print)
        assert not taken
    with pytest.raises(UnreachableError, match="does not answer"):
        sender(port).send(results[:1], print)


def test_a_destination_that_rejects_this_node(results):
    rejected = pytest.raises(UnreachableError, match="rejects the association; does it know 'SEGBUNDLES'")
    with destination(accept=["OTHER"]) as (port, _), rejected:
        sender(port).send(results[:1], print)


def test_what_a_destination_will_never_take(results):
    with (
        destination() as (port, _),
        pytest.raises(RefusedError, match="does not take RT Structure Set Storage"),
    ):
        sender(port).send(results[1:], print)
    refused = pytest.raises(RefusedError, match="refuses the result with status A900")
    with destination(status=lambda: 0xA900) as (port, _), refused:
        sender(port).send(results[:1], print)


def test_what_was_taken_before_a_failure_is_known(results):
    answers = itertools.chain([0x0000], itertools.repeat(0xA700))
    sent = []
    contexts = (SegmentationStorage, RTStructureSetStorage)
    with destination(lambda: next(answers), contexts=contexts) as (port, _), pytest.raises(UnreachableError):
        sender(port).send(results, sent.append)
    assert sent == results[:1]
