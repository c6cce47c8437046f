"""What is kept of a job on disk."""

from pipelines.deployment.node.job import IMAGES, Job, size_of


def make(folder):
    images = folder / "20261130-101500-000-abcd" / IMAGES / "1.2.3"
    images.mkdir(parents=True)
    for uid in ("1.2.3.2", "1.2.3.1"):
        (images / f"{uid}.dcm").write_bytes(b"image")
    return Job(images.parents[1])


def test_names(tmp_path):
    job = make(tmp_path)
    assert (job.name, job.key, job.series) == ("20261130-101500-000", "abcd", "1.2.3")
    assert job.instances == ["1.2.3.1", "1.2.3.2"]
    assert job.size() == size_of(tmp_path) == 10


def test_state_is_on_disk(tmp_path):
    job = make(tmp_path)
    assert (job.starts, job.sent) == (0, [])
    job.note_starts(2)
    job.note_sent("a.seg.dcm")
    job.note_sent("b.seg.dcm")
    assert (Job(job.folder).starts, Job(job.folder).sent) == (2, ["a.seg.dcm", "b.seg.dcm"])
    (job.folder / "state.json").write_text("{")
    assert job.starts == 0
