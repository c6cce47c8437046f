"""What a node takes from the network, with pynetdicom as the one that calls."""

import logging
import socket
import threading

import pytest
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
)

from pipelines.deployment.node.listener import Listener, ListenError
from pipelines.deployment.node.network import Limits
from pipelines.deployment.node.queue import Queue
from tests.pipelines.deployment.node.peers import VERIFICATION, associate, series
from tests.waiting import wait_for


@pytest.fixture
def queue(tmp_path):
    made = Queue(tmp_path / "queue", 10**9, silence=1e9, after_release=0.05)
    yield made
    made.close()


@pytest.fixture
def listening(queue, caplog):
    """Start a listener; returns its port."""
    caplog.set_level(logging.INFO, "pipelines.deployment.node")
    started = []

    def start(*accept, **limits):
        listener = Listener(queue, "SEGBUNDLES", accept, Limits(**limits))
        started.append(listener)
        return listener.start("127.0.0.1", 0)

    yield start
    for listener in started:
        listener.stop()


def said(caplog):
    """What the node said; pynetdicom logs too."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("pipelines.deployment.node")
    ]


def whole(queue):
    return wait_for(queue.complete)


def test_echo_and_a_series(queue, listening, caplog):
    association = associate(listening(), contexts=(VERIFICATION, CTImageStorage))
    assert association.send_c_echo().Status == 0
    images = series()
    for image in images:
        assert association.send_c_store(image).Status == 0
    assert queue.complete() == []
    association.release()
    (job,) = whole(queue)
    assert job.instances == ["1.2.3.1", "1.2.3.2", "1.2.3.3"]
    assert said(caplog) == ["'SENDER' sends series 1.2.3"]


def test_two_series_in_one_association_and_two_clients_at_once(queue, listening):
    port = listening()

    def send(number):
        association = associate(port, calling=f"CLIENT{number}")
        pairs = zip(series(f"1.2.{number}"), series(f"1.3.{number}", 4)[:3], strict=True)
        for pair in pairs:
            for image in pair:
                assert association.send_c_store(image).Status == 0
        association.release()

    threads = [threading.Thread(target=send, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    jobs = []
    wait_for(lambda: jobs.extend(queue.complete()) or len(jobs) == 4)
    assert {job.series: len(job.instances) for job in jobs} == dict.fromkeys(
        ("1.2.0", "1.3.0", "1.2.1", "1.3.1"), 3
    )


def test_who_may_call(listening, caplog):
    port = listening("PACS", "CT1")
    assert associate(port, calling="STRANGER").is_rejected
    assert associate(port, title="OTHER", calling="CT1").is_rejected
    known = associate(port, calling="CT1")
    assert known.is_established
    known.release()
    wait_for(lambda: len(said(caplog)) == 2)
    assert said(caplog) == [
        "an association is rejected: 'STRANGER' is not in --accept",
        "an association is rejected: 'CT1' calls 'OTHER', and this node is SEGBUNDLES",
    ]


def test_no_more_associations_than_the_limit(listening, caplog):
    port = listening(associations=2)
    open_ones = [associate(port) for _ in range(2)]
    assert associate(port).is_rejected
    wait_for(lambda: said(caplog))
    assert said(caplog) == [
        "an association is rejected: 'SENDER' would be one more than 2 associations (--max-associations)"
    ]
    for each in open_ones:
        each.release()


def test_only_what_is_read_is_negotiated(listening):
    refused = (MRImageStorage, SecondaryCaptureImageStorage)
    association = associate(listening(), contexts=(CTImageStorage, EnhancedCTImageStorage, *refused))
    assert {context.abstract_syntax for context in association.accepted_contexts} == {
        CTImageStorage,
        EnhancedCTImageStorage,
    }
    assert association.acceptor.maximum_length == 65536
    association.release()


def test_nothing_is_inflated(listening):
    from pynetdicom import AE

    entity = AE()
    entity.add_requested_context(CTImageStorage, DeflatedExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", listening(), ae_title="SEGBUNDLES")
    assert not association.accepted_contexts
    association.abort()


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_what_is_no_image_of_a_series_is_refused_and_the_next_one_taken(queue, listening, caplog):
    association = associate(listening())
    first, second, third = series()
    first.SeriesInstanceUID = "../../evil"
    assert association.send_c_store(first).Status == 0xC000
    del second.SeriesInstanceUID
    assert association.send_c_store(second).Status == 0xC000
    assert association.send_c_store(third).Status == 0
    association.release()
    (job,) = whole(queue)
    assert job.instances == ["1.2.3.3"]
    assert said(caplog)[0].startswith(
        "an image from 'SENDER' is refused: its SeriesInstanceUID is '../../evil', which"
    )
    assert "it has no SeriesInstanceUID" in said(caplog)[1]
    names = {path.name for path in queue.folder.parent.rglob("*")}
    assert not any("evil" in name for name in names), names


def test_a_full_queue_says_so_to_the_sender(queue, listening):
    association = associate(listening())
    queue.largest = 10
    assert association.send_c_store(series()[0]).Status == 0xA700
    queue.largest = 10**9
    assert association.send_c_store(series()[0]).Status == 0
    association.release()


def test_an_image_beyond_the_limit_ends_its_association(queue, listening, caplog):
    port = listening(instance=100_000, pdu=16384)
    association = associate(port)
    (image,) = series(count=1)
    image.ImageComments = "x" * 200_000
    assert "Status" not in association.send_c_store(image)
    wait_for(lambda: said(caplog))
    assert "sends an image of more than 0.1 MB (--max-instance)" in said(caplog)[0]
    # The node goes on, and counts each image for itself.
    other = associate(port)
    for small in series(count=3, ImageComments="x" * 40_000):
        assert other.send_c_store(small).Status == 0
    other.release()
    (job,) = whole(queue)
    assert len(job.instances) == 3


def test_noise_and_silence_end_nothing(queue, listening):
    port = listening(timeout=0.3)
    for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\x01\x00\x00\x00\x00\x08damaged!", bytes(6)):
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(noise)
    with socket.create_connection(("127.0.0.1", port)) as silent:
        silent.settimeout(30)
        assert silent.recv(1) == b"", "a silent peer is disconnected"
    association = associate(port, contexts=(VERIFICATION,))
    assert association.send_c_echo().Status == 0
    association.release()


def test_an_address_that_is_taken(listening, queue):
    port = listening()
    with pytest.raises(ListenError, match=rf"cannot listen at 127.0.0.1:{port}"):
        Listener(queue, "OTHER").start("127.0.0.1", port)


def test_without_uids_in_the_log(queue, caplog):
    caplog.set_level(logging.INFO, "pipelines.deployment.node")
    listener = Listener(queue, "SEGBUNDLES", quiet=True)
    association = associate(listener.start("127.0.0.1", 0))
    association.send_c_store(series()[0])
    association.release()
    listener.stop()
    assert said(caplog) == ["'SENDER' sends a series"]
