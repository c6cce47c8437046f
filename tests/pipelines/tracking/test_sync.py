"""Delivering a spool without a training."""

import logging

import pytest

from pipelines.__main__ import main


def test_sync_without_anything_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("SEGBUNDLES_SPOOL", raising=False)
    assert main(["sync"]) == 0
    assert "no records to send" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        main(["sync", "no such folder"])
    assert caught.value.code == 2
    assert logging.getLogger("pipelines").level == logging.NOTSET
