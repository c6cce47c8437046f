"""Which number format "auto" becomes: flags first, then a real convolution; nothing else changes by looking."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from pipelines.inference import precision
from pipelines.inference.precision import choose_precision, common_precision, resolve_precision

CPU = torch.device("cpu")
ONEDNN = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.fixture(autouse=True)
def looked_at_anew():
    choose_precision.cache_clear()
    yield
    choose_precision.cache_clear()


@pytest.fixture
def processor(monkeypatch):
    """A processor that says it has bf16 or not, and whose convolution takes this share of the time in it."""

    def make(supported: bool = True, share: float | Exception = 1.0) -> None:
        def measured() -> float:
            if isinstance(share, Exception):
                raise share
            return share

        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
        monkeypatch.setattr(precision, "bf16_share", measured)

    return make


def test_without_instructions_nothing_is_timed(processor):
    processor(supported=False, share=AssertionError("timed"))
    assert choose_precision(CPU).value == "fp32"
    assert "no instructions" in choose_precision(CPU).reason


@pytest.mark.parametrize(("share", "wanted"), [(0.3, "bf16"), (0.79, "bf16"), (0.9, "fp32"), (30.0, "fp32")])
def test_bf16_has_to_save_time(processor, share, wanted):
    processor(share=share)
    assert resolve_precision("auto", CPU) == wanted
    assert f"{share:.2f}" in choose_precision(CPU).reason


def test_a_backward_pass_that_raises_counts_as_no(processor):
    processor(share=RuntimeError("DNNL does not support bf16/f16 backward\non this platform"))
    found = choose_precision(CPU)
    assert found.value == "fp32"
    assert "DNNL does not support" in found.reason
    assert "\n" not in found.reason


def test_other_errors_are_not_hidden(processor):
    processor(share=MemoryError())
    with pytest.raises(MemoryError):
        choose_precision(CPU)


def test_deterministic_mode_does_not_time(processor):
    processor(share=AssertionError("timed"))
    torch.use_deterministic_algorithms(True)
    try:
        assert choose_precision(CPU).value in ("bf16", "fp32")
    finally:
        torch.use_deterministic_algorithms(False)


def test_it_is_said_once(processor, caplog):
    processor(share=0.5)
    caplog.set_level("INFO", logger="pipelines.inference.precision")
    for _ in range(3):
        common_precision("auto", CPU)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("precision: bf16, since")


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_a_name_is_what_it_says(processor, name):
    processor(share=AssertionError("timed"))
    assert resolve_precision(name, CPU) == name


def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(ValueError, match="'half' is unknown; choose one of auto, fp32, bf16, fp16"):
        resolve_precision("half", CPU)


@ONEDNN
def test_looking_leaves_random_numbers_alone():
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    choose_precision(CPU)
    assert torch.equal(torch.rand(4), wanted)


@ONEDNN
def test_this_processor_computes_in_what_is_chosen():
    """The real look at the real processor; which way it ends is the processor's."""
    found = choose_precision(CPU)
    assert found.value in ("fp32", "bf16")
    with precision.autocast(CPU, found.value):
        torch.nn.Conv3d(4, 4, 3)(torch.randn(1, 4, 5, 5, 5)).sum().backward()


@ONEDNN
def test_a_processor_with_avx2_alone_computes_in_float32():
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    code = "import torch; from pipelines.inference.precision import choose_precision as c; print(c(torch.device('cpu')).value)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "fp32"
