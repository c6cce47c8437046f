"""No file is kept that does not compute what the model computes."""

from pathlib import Path

import pytest
import torch

from pipelines.inference.engines import export
from pipelines.inference.engines.export import (
    FORMATS,
    Format,
    checked_export,
    compared,
    export_path,
    format_of,
    plain_copy,
)
from pipelines.inference.engines.formats import SIZES, EngineError
from pipelines.inference.engines.sample_windows import made_up_window


class OneSize(torch.nn.Module):
    """Takes windows of 16 x 16, in batches of any size."""

    size_divisor = (4, 8)

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(
            torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        )

    def forward(self, x):
        return torch.cat([x * self.weight, x, -x], 1)


def test_it_is_written_for_less_where_it_cannot_take_more(r2unet, tmp_path):
    network = OneSize()
    with pytest.raises(RuntimeError, match="must match the size"):
        network(torch.zeros(1, 1, 20, 24))
    path = tmp_path / "model.ts"
    assert checked_export(r2unet, "torchscript", path, made_up_window(r2unet), network).sizes == SIZES[1]
    made, said = FORMATS["torchscript"].load(path)
    assert said.sizes == SIZES[1]
    windows = torch.randn(3, 1, 16, 16)
    assert torch.equal(made(windows), network(windows))


@pytest.mark.parametrize("folder", [False, True])
def test_an_earlier_file_stays_where_the_new_one_is_wrong(r2unet, tmp_path, monkeypatch, folder):
    """Whatever the check finds: other values, NaN, another shape."""
    path = tmp_path / "model.x"
    kept = path / "model.xml" if folder else path
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("earlier", encoding="utf-8")
    answers = {
        "differ by up to 0.01": lambda x: r2unet.network(x) + 0.01,
        "differ by up to nan": lambda x: r2unet.network(x) * float("nan"),
        "gives logits of": lambda x: r2unet.network(x)[:, :1],
    }

    def write(network, window, target, texts, sizes):
        (target / "model.xml" if folder else target).write_text("new", encoding="utf-8")

    for said, answer in answers.items():

        class Wrong(torch.nn.Module):
            forward = staticmethod(answer)

        made = Format(".x", write, lambda path, wrong=Wrong: (wrong(), None), folder=folder)
        monkeypatch.setitem(FORMATS, "wrong", made)
        with pytest.raises(EngineError, match=said):
            checked_export(r2unet, "wrong", path, made_up_window(r2unet))
        assert kept.read_text(encoding="utf-8") == "earlier"
        assert list(tmp_path.iterdir()) == [path]
    made = Format(".x", write, lambda path: (r2unet.network, None), folder=folder)
    monkeypatch.setitem(FORMATS, "right", made)
    checked_export(r2unet, "right", path, made_up_window(r2unet))
    assert kept.read_text(encoding="utf-8") == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_not_taken_for_a_network_that_cannot_be_exported(r2unet, tmp_path, monkeypatch):
    def write(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(FORMATS, "onnx", Format(".onnx", write, FORMATS["onnx"].load))
    with pytest.raises(OSError, match="No space left"):
        checked_export(r2unet, "onnx", tmp_path / "model.onnx", made_up_window(r2unet))


def test_the_network_in_use_stays_as_it_is(r2unet):
    network = r2unet.network.to(memory_format=torch.channels_last)
    before = next(network.parameters()).stride()
    made = plain_copy(network)
    assert next(made.parameters()).is_contiguous()
    assert next(network.parameters()).stride() == before
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_comparison_counts_labels_and_the_largest_difference():
    first = torch.nn.Identity()
    window = torch.zeros(1, 2, 2, 2)
    window[:, 0] = 3.0

    class Second(torch.nn.Module):
        def forward(self, x):
            y = x.clone()
            y[0, 1, 0, 0] = 4.0
            return y

    found = compared(first, Second(), [window, window])
    assert (found.difference, found.largest, found.labels) == (4.0, 3.0, 0.75)
    assert not found.close()
    assert compared(first, first, [window]).close()


def test_names_tell_the_format():
    model = Path("models/model.pt")
    for name in FORMATS:
        assert format_of(export_path(model, name)) == name
    assert export_path(model, "openvino") == Path("models/model_openvino")
    assert format_of(Path("models/model_openvino/model.xml")) == "openvino"
    with pytest.raises(EngineError, match=r"model\.pt is no exported network"):
        format_of(model)
    assert export.TOLERANCE["fp32"] < 0.01
