"""The process that segments, with a model that makes no mistakes; tests/e2e/test_node.py has it within a node."""

import os
import signal
from pathlib import Path

import pydicom
import pytest
import torch

from pipelines.deployment.node.worker import ModelRefusedError, Worker, WorkerEndedError
from tests.conftest import REPOSITORY
from tests.pipelines.deployment.node.peers import series
from tests.pipelines.tiny_model import write_dicom, write_model

CONFIG = REPOSITORY / "bundles" / "r2unet" / "inference.json"


def settings(model):
    return {"bundle_root": str(REPOSITORY / "bundles" / "r2unet"), "model": str(model), "formats": ["seg"]}


@pytest.mark.slow
def test_one_process_for_many_series_and_another_when_it_was_killed(tmp_path):
    worker = Worker(CONFIG, settings(write_model(tmp_path / "model")))
    worker.start()
    process = worker._process.pid
    try:
        label = write_dicom(tmp_path / "1.2.3")
        assert worker.segment(tmp_path / "1.2.3", tmp_path / "a", tmp_path / "a.txt") == ""
        found = pydicom.dcmread(tmp_path / "a" / "1.2.3.seg.dcm")
        assert [item.SegmentLabel for item in found.SegmentSequence] == ["lung", "liver"]
        assert found.pixel_array.sum() == (label > 0).sum()
        assert "1 of 1 cases segmented" in (tmp_path / "a.txt").read_text()
        (tmp_path / "damaged").mkdir()
        for image in series():
            image.PixelData = image.PixelData[:10]
            image.save_as(tmp_path / "damaged" / f"{image.SOPInstanceUID}.dcm", enforce_file_format=True)
        said = worker.segment(tmp_path / "damaged", tmp_path / "b", tmp_path / "b.txt")
        assert "bytes" in said
        assert "\n" not in said
        assert worker._process.pid == process
        os.kill(process, signal.SIGKILL)
        with pytest.raises(WorkerEndedError, match="ended with SIGKILL, perhaps for lack of memory"):
            worker.segment(tmp_path / "1.2.3", tmp_path / "c", tmp_path / "c.txt")
    finally:
        worker.stop()


@pytest.mark.slow
def test_a_killed_process_is_started_again(tmp_path):
    worker = Worker(CONFIG, settings(write_model(tmp_path / "model")))
    worker.start()
    write_dicom(tmp_path / "1.2.3")
    os.kill(worker._process.pid, signal.SIGKILL)
    with pytest.raises(WorkerEndedError):
        worker.segment(tmp_path / "1.2.3", tmp_path / "c", tmp_path / "c.txt")
    assert worker.segment(tmp_path / "1.2.3", tmp_path / "d", tmp_path / "d.txt") == ""
    worker.stop()


@pytest.mark.slow
def test_models_that_cannot_be_used(tmp_path):
    torch.save({}, tmp_path / "model.pt")
    channels = write_model(tmp_path / "channels", preprocessing=_two_channels())
    for model, said in ((tmp_path / "model.pt", "model.json is missing"), (channels, "of 2 channels")):
        worker = Worker(Path(CONFIG), settings(model))
        with pytest.raises(ModelRefusedError, match=said):
            worker.start()


def _two_channels():
    from transforms.preprocess import Preprocess

    return Preprocess(channels=2, normalization="zscore").parameters()
