"""The sliding window on a GPU: the CPU's result, whatever lies on the host and however small the memory."""

import pytest
import torch
from monai.inferers import SlidingWindowInferer

from pipelines.data.loaders import volume_loader
from pipelines.data.volume_dataset import VolumeDataset
from pipelines.inference import windows
from pipelines.inference.evaluator import SegEvaluator
from pipelines.inference.memory_format import place
from pipelines.inference.sliding_window import InferenceMemoryError, SlidingWindow
from tests.cuda import exact, room
from tests.pipelines.small import NAMES, OBLIQUE, write_ct
from transforms.preprocess import Preprocess

pytestmark = pytest.mark.cuda
DELAY = 3_000_000
"""Clock cycles, a millisecond or two: long enough for any copy of a window to overtake a network."""


@pytest.fixture(autouse=True)
def exactly():
    with exact():
        yield


def network(classes, features=8, seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv3d(1, features, 5, padding=2),
        torch.nn.ReLU(),
        torch.nn.Conv3d(features, classes, 3, padding=1),
    ).requires_grad_(False)


class Late(torch.nn.Module):
    """A network that begins late and returns memory that the next window uses again."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        torch.cuda._sleep(DELAY)
        result = self.inner(x)
        torch.cuda._sleep(DELAY)
        return result


def volume(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def on_host(monkeypatch):
    """The volume does not go to the device, as where its memory is full."""
    real = torch.cuda.mem_get_info

    def full(device=None):
        return 0, real(device)[1]

    monkeypatch.setattr(windows.torch.cuda, "mem_get_info", full)


@pytest.mark.parametrize("size", [None, 1, 3])
@pytest.mark.parametrize("device", [None, "cuda", "cpu"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_logits_are_those_of_the_cpu_and_of_monai(size, device, channels_last):
    image, net = volume(2, 1, 50, 37, 21), network(5)
    expected = SlidingWindow((16, 16, 16), 1, 0.5)(image, net)
    net = place(net, "cuda", channels_last)
    ours = SlidingWindow((16, 16, 16), size, 0.5, device=device)(image, net)
    assert ours.device.type == (device or "cuda")
    torch.testing.assert_close(ours.cpu(), expected, atol=1e-4, rtol=1e-4)
    monai = SlidingWindowInferer((16, 16, 16), 4, 0.5, "gaussian", sw_device="cuda", device="cpu")(image, net)
    torch.testing.assert_close(ours.cpu(), monai, atol=1e-4, rtol=1e-4)
    assert (ours.cpu().argmax(1) == expected.argmax(1)).float().mean() > 0.9999


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [1, 4])
def test_no_copy_is_overtaken(size, seed, on_host):
    """Bit for bit: from pinned memory with the volume on the host, against all on the device."""
    image, net = volume(1, 1, 96, 40, 40, seed=seed), Late(network(4, seed=seed)).cuda()
    window = SlidingWindow((16, 16, 16), size, 0.5, device="cuda")
    from_host = window(image, net)
    on_device = window(image.cuda(), net)
    assert torch.equal(from_host, on_device)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("half", [False, True])
def test_no_result_is_overtaken(half, seed):
    """Bit for bit: blended on the host while the network goes on, against waiting for every window."""
    image, net = volume(1, 1, 96, 40, 40, seed=seed), Late(network(4, seed=seed)).cuda()
    window = SlidingWindow((16, 16, 16), 4, 0.5, device="cpu")
    with torch.autocast("cuda", torch.bfloat16, enabled=half):
        overlapped = window(image, net)
        waiting = window(image, lambda x: net(x.cuda()).cpu())
    assert overlapped.device.type == waiting.device.type == "cpu"
    assert torch.equal(overlapped, waiting)


def test_volume_and_sums_on_the_host_at_once(on_host):
    image, net = volume(1, 1, 64, 40, 40), network(4)
    expected = SlidingWindow((16, 16, 16), 1)(image, net)
    torch.testing.assert_close(
        SlidingWindow((16, 16, 16), 3)(image, net.cuda()).cpu(), expected, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("size", [None, 32])
def test_where_memory_ends_batches_shrink(size):
    """A batch of 32 windows needs 2 GiB for the features of the first layer alone."""
    image, net = volume(1, 1, 192, 128, 128), network(3, features=64).cuda()
    window = SlidingWindow((64, 64, 64), size, 0.5)
    expected = window(image, net).cpu()
    sizes = []
    net.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    with room(640):
        found = window(image, net).cpu()
    assert max(sizes) > sizes[-1]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_sums_stay_off_a_full_device():
    """Those of a row of windows of 100 classes take 227 MiB, the logits of each of two windows 100."""
    image = volume(1, 1, 160, 96, 96)
    net = torch.nn.Conv3d(1, 100, 1).requires_grad_(False).cuda()
    window = SlidingWindow((64, 64, 64), 1, 0.5)
    expected = torch.cat([rows.cpu() for rows in window.rows(image, net, 0)], 1)
    with room(400):
        found = [rows.clone() for rows in window.rows(image, net, 0)]
    assert {rows.device.type for rows in found} == {"cpu"}
    torch.testing.assert_close(torch.cat(found, 1), expected, atol=1e-4, rtol=1e-4)


def test_a_window_that_does_not_fit_is_a_clear_word():
    image, net = volume(1, 1, 96, 64, 64), network(3, features=64).cuda()
    with room(24), pytest.raises(InferenceMemoryError, match=r"single window of \(64, 64, 64\) voxels"):
        SlidingWindow((64, 64, 64), 4)(image, net)
    # And the device is as good as before.
    assert SlidingWindow((64, 64, 64), 1)(image, net).isfinite().all()


@pytest.mark.parametrize("spacing", [None, 1.7])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_case_is_predicted_as_on_the_cpu(tmp_path, spacing, precision):
    data = [write_ct(tmp_path, "a", affine=OBLIQUE, shape=(60, 54, 48))]
    preprocess, net = Preprocess(spacing=spacing), network(3)
    found = {}
    for device in ("cpu", "cuda"):
        place(net, device, channels_last=True)
        engine = SegEvaluator(
            device,
            volume_loader(VolumeDataset(data, preprocess)),
            net,
            preprocess,
            [NAMES[1], NAMES[2]],
            SlidingWindow((16, 16, 16)),
            precision=precision if device == "cuda" else "fp32",
        )
        item = VolumeDataset(data, preprocess)[0]
        labels, maps = engine.predict_with_probabilities(item)
        assert labels.device.type == maps.device.type == "cpu"
        assert torch.equal(engine.predict(item).as_tensor(), labels.as_tensor())
        found[device] = labels.as_tensor(), maps.as_tensor()
    equal = (found["cpu"][0] == found["cuda"][0]).float().mean()
    assert equal > (0.9999 if precision == "fp32" else 0.97)
    tolerance = 1e-4 if precision == "fp32" else 0.05
    torch.testing.assert_close(found["cuda"][1], found["cpu"][1], atol=tolerance, rtol=0)
