"""The queue of a node, without a network."""

import json
import os
import shutil
import threading

import pytest

from pipelines.deployment.node import queue as module
from pipelines.deployment.node.instances import Instance
from pipelines.deployment.node.job import LOG, REASON
from pipelines.deployment.node.queue import Queue, QueueError, QueueFullError, key_of

SERIES = "1.2.3"


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def queue(tmp_path, clock):
    made = Queue(tmp_path / "queue", 10_000, clock=clock)
    yield made
    made.close()


def send(queue, *numbers, series=SERIES, association=1, size=100):
    return [
        queue.store(Instance("1.2", series, f"{series}.{number}"), b"x" * size, association)
        for number in numbers
    ]


def deliver(queue, clock, *numbers, series=SERIES):
    send(queue, *numbers, series=series)
    clock.now += 31
    (job,) = queue.complete()
    assert queue.take() == job
    queue.segmented(job)
    (job,) = queue.outbox()
    queue.delivered(job)


def reopened(queue, clock):
    """As the next process finds it."""
    queue.close()
    return Queue(queue.folder, queue.largest, clock=clock)


def test_a_series_is_whole_after_silence(queue, clock):
    assert send(queue, 1, 2) == [True, False]
    clock.now += 29
    send(queue, 3)
    clock.now += 29
    assert queue.complete() == []
    clock.now += 1
    (job,) = queue.complete()
    assert job.instances == ["1.2.3.1", "1.2.3.2", "1.2.3.3"]
    assert [path.read_bytes() for path in job.images.iterdir()] == [b"x" * 100] * 3
    assert queue.complete() == []


def test_a_series_is_whole_soon_after_its_association_was_released(queue, clock):
    send(queue, 1, association=1)
    send(queue, 2, association=2)
    queue.left(1, released=True)
    clock.now += 3
    assert queue.complete() == [], "the other association may send more"
    queue.left(2, released=True)
    (job,) = queue.complete()
    assert len(job.instances) == 2


def test_a_broken_association_may_come_back(queue, clock):
    send(queue, 1)
    queue.left(1, released=False)
    clock.now += 3
    assert queue.complete() == []
    send(queue, 2, association=2)
    queue.left(2, released=True)
    clock.now += 3
    (job,) = queue.complete()
    assert len(job.instances) == 2


def test_an_image_for_each_association(queue, clock):
    for number in range(5):
        send(queue, number, association=number)
        queue.left(number, released=True)
        clock.now += 1.5
        assert queue.complete() == []
    clock.now += 1
    (job,) = queue.complete()
    assert len(job.instances) == 5


def test_jobs_are_done_in_their_order(queue, clock):
    for number in range(4):
        send(queue, 1, series=f"1.2.{9 - number}")
        clock.now += 1
    clock.now += 31
    assert [job.series for job in queue.complete()] == ["1.2.9", "1.2.8", "1.2.7", "1.2.6"]
    assert [job.series for job in queue.jobs()] == ["1.2.9", "1.2.8", "1.2.7", "1.2.6"]
    first = queue.take()
    queue.segmented(first)
    assert queue.take().series == "1.2.8"


def test_late_images_join_a_series_that_waits(queue, clock):
    send(queue, 1)
    clock.now += 31
    (job,) = queue.complete()
    send(queue, 2)
    clock.now += 31
    assert queue.complete() == []
    assert job.instances == ["1.2.3.1", "1.2.3.2"]
    assert not list((queue.folder / "incoming").iterdir())


def test_late_images_of_a_segmented_series_are_no_series(queue, clock):
    send(queue, 1, 2)
    clock.now += 31
    queue.complete()
    job = queue.take()
    send(queue, 3)
    clock.now += 31
    assert queue.complete() == [], "it waits for the one that is being segmented"
    queue.segmented(job)
    assert queue.complete() == []
    queue.delivered(queue.outbox()[0])
    assert queue.complete() == []
    (late,) = queue.aside()
    assert late.instances == ["1.2.3.3"]
    said = (late.folder / REASON).read_text()
    assert said.startswith(
        "1 of its images came after the series was segmented without them; send the whole series"
    )


def test_a_series_may_be_sent_again(queue, clock):
    deliver(queue, clock, 1, 2)
    deliver(queue, clock, 1, 2, 3)
    assert queue.aside() == []


def test_uids_are_forgotten_after_some_days(queue, clock):
    deliver(queue, clock, 1, 2)
    (known,) = (queue.folder / "done").iterdir()
    assert json.loads(known.read_text()) == ["1.2.3.1", "1.2.3.2"]
    os.utime(known, (0, 0))
    again = reopened(queue, clock)
    assert not known.exists()
    deliver(again, clock, 3)
    again.close()


def test_a_killed_process_loses_nothing(queue, clock):
    """At each place where a series may be, with what was being written."""
    for number in range(4):
        send(queue, 1, 2, series=f"1.2.{number}")
        clock.now += 0.1
    clock.now += 31
    first, second, *_ = queue.complete()
    queue.segmented(first)
    queue.take()
    second.note_starts(1)
    (queue.folder / "receiving" / "half.dcm").write_bytes(b"half")
    (queue.folder / "receiving" / "abc.done").mkdir()
    (queue.folder / "incoming" / "empty" / "images" / "1.2").mkdir(parents=True)
    send(queue, 1, series="1.2.9")
    again = reopened(queue, clock)
    assert [job.series for job in again.outbox()] == ["1.2.0"]
    assert [(job.series, job.starts) for job in again.jobs()] == [("1.2.1", 1), ("1.2.2", 0), ("1.2.3", 0)]
    assert not list((queue.folder / "receiving").iterdir())
    assert again.complete() == []
    clock.now += 31
    assert [job.series for job in again.complete()] == ["1.2.9"]
    again.close()


def test_the_same_image_twice_is_one(queue, clock):
    send(queue, 1, 1, 1)
    clock.now += 31
    (job,) = queue.complete()
    assert len(job.instances) == 1


def test_a_full_queue_takes_nothing_until_there_is_room(queue, clock):
    send(queue, *range(9), size=1000)
    clock.now += 31
    (job,) = queue.complete()
    with pytest.raises(QueueFullError, match=r"holds its 1e-05 GB \(--max-disk\)"):
        send(queue, 1, 2, series="1.2.4", size=1000)
    queue.take()
    queue.segmented(job)
    queue.delivered(queue.outbox()[0])
    send(queue, 1, 2, series="1.2.4", size=1000)


def test_a_full_disk(queue, monkeypatch):
    usage = shutil.disk_usage(queue.folder)
    monkeypatch.setattr(module, "FREE", usage.free * 2)
    with pytest.raises(QueueFullError, match=r"the disk of .* is full"):
        send(queue, 1)


def test_what_is_set_aside_stays_and_stops_nothing(queue, clock):
    for number in range(3):
        send(queue, 1, 2, series=f"1.2.{number}", size=500)
        clock.now += 1
    clock.now += 31
    queue.complete()
    job = queue.take()
    (job.folder / LOG).write_text("log")
    queue.set_aside(job, "no CT.")
    assert queue.take().series == "1.2.1"
    (left,) = queue.aside()
    assert (left.folder / REASON).read_text() == "no CT.\n"
    assert (left.folder / LOG).exists()
    # A quarter of the queue is 2,500 bytes, and each series has 1,000.
    queue.set_aside(queue.take(), "no CT.")
    queue.set_aside(queue.take(), "no CT.")
    assert [job.series for job in queue.aside()] == ["1.2.1", "1.2.2"]


def test_one_process_at_a_time(queue):
    with pytest.raises(QueueError, match="another node works on the queue"):
        Queue(queue.folder, 1)


def test_many_threads(queue, clock):
    def work(number):
        send(queue, *range(4 * number, 4 * number + 4), series=f"1.2.{number % 2}", association=number)
        queue.left(number, released=True)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clock.now += 3
    assert sorted(len(job.instances) for job in queue.complete()) == [16, 16]


def test_keys_are_no_paths():
    assert key_of("1.2", "1.3") != key_of("1.2", "1.4")
    assert key_of("../..", "/").isalnum()
