"""The training step and the evaluation step."""

import copy
import math

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.inferers import SlidingWindowInferer

from pipelines.data.loaders import volume_loader
from pipelines.data.volume_dataset import VolumeDataset
from pipelines.inference.evaluator import SegEvaluator
from pipelines.inference.sliding_window import SlidingWindow
from pipelines.metrics.names import METRICS
from pipelines.training.losses import SegLoss
from pipelines.training.optimization import averaged, lr_schedule
from pipelines.training.trainer import NonFiniteLossError, SegTrainer
from pipelines.utils.modules import unwrapped
from tests.pipelines.small import NAMES, OBLIQUE, Oracle, Tiny, write_ct
from transforms.io.readers import ImageError, read_label
from transforms.preprocess import Preprocess
from transforms.spatial.restore import NonFiniteError


def batches(count, size, spatial=(8, 8, 8), seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count * size, 1, *spatial, generator=generator)
    labels = (images > 0.3).to(torch.uint8) + (images > 1).to(torch.uint8)
    names = [f"case{i}" for i in range(count * size)]
    parts = (images.split(size), labels.split(size), [names[i * size : (i + 1) * size] for i in range(count)])
    return [dict(zip(("image", "label", "case"), part, strict=True)) for part in zip(*parts, strict=True)]


def trainer(data, epochs=2, lr=0.1, seed=0, dims=3, scheduled=False, network=None, **options):
    torch.manual_seed(seed)
    network = network or Tiny(3, dims, dropout=0.0, norm="group")
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9)
    if scheduled:
        options["lr_scheduler"] = lr_schedule(optimizer, "poly", epochs * len(data))
    if "ema" in options:
        options["average"] = averaged(network, options.pop("ema"))
    return SegTrainer("cpu", epochs, data, network, optimizer, SegLoss(), **options)


def weights(engine):
    return torch.cat([p.detach().flatten() for p in unwrapped(engine.network).parameters()])


def test_accumulated_batches_equal_a_big_one():
    big = trainer(batches(2, 6), scheduled=False)
    small = trainer(batches(6, 2), accumulation_steps=3)
    big.run()
    small.run()
    torch.testing.assert_close(weights(small), weights(big), atol=2e-6, rtol=1e-4)
    assert (small.state.iteration, big.state.iteration) == (12, 4)


def test_a_last_short_window_of_accumulation_counts_in_full():
    data = batches(5, 2)
    engine = trainer(data, epochs=1, accumulation_steps=3)
    engine.run()
    merged = [
        {"image": torch.cat([b["image"] for b in part]), "label": torch.cat([b["label"] for b in part])}
        for part in (data[:3], data[3:])
    ]
    reference = trainer(merged, epochs=1)
    reference.run()
    torch.testing.assert_close(weights(engine), weights(reference), atol=2e-6, rtol=1e-4)


def test_the_schedule_steps_with_the_optimiser_and_not_with_the_iterations():
    engine = trainer(batches(5, 2), epochs=2, accumulation_steps=3)
    engine.lr_scheduler = lr_schedule(engine.optimizer, "poly", 4, power=1.0)
    seen = []
    engine.add_event_handler(
        Events.ITERATION_COMPLETED, lambda e: seen.append(e.optimizer.param_groups[0]["lr"])
    )
    engine.run()
    expected = [0.1, 0.1, 0.075, 0.075, 0.05, 0.05, 0.05, 0.025, 0.025, 0.0]
    assert seen == pytest.approx(expected)


def test_gradients_are_scaled_down_to_the_norm():
    data = batches(1, 4)
    free, clipped = trainer(data, epochs=1), trainer(data, epochs=1, max_grad_norm=0.01)
    start = weights(free)
    free.run()
    clipped.run()
    assert float(free.grad_norm) == pytest.approx(float(clipped.grad_norm)), (
        "the norm before clipping is reported"
    )
    assert float((weights(free) - start).norm()) == pytest.approx(0.1 * float(free.grad_norm), rel=1e-3)
    assert float((weights(clipped) - start).norm()) == pytest.approx(0.1 * 0.01, rel=1e-2)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("dims", [2, 3])
def test_half_precision_learns_as_full_precision_does(precision, dims):
    data = batches(4, 2, (8,) * dims)
    inside = []

    class Watch(Tiny):
        def forward(self, x):
            result = super().forward(x)
            inside.append(result.dtype)
            return result

    full = trainer(data, epochs=5, dims=dims)
    torch.manual_seed(0)
    half = trainer(
        data, epochs=5, dims=dims, precision=precision, network=Watch(3, dims, dropout=0, norm="group")
    )
    losses = {}
    for name, engine in (("full", full), ("half", half)):
        losses[name] = []
        engine.add_event_handler(
            Events.ITERATION_COMPLETED, lambda e, name=name: losses[name].append(e.state.output["loss"])
        )
        engine.run()
    assert set(inside) == {torch.bfloat16 if precision == "bf16" else torch.float16}
    assert all(loss.dtype == torch.float32 and not loss.requires_grad for loss in losses["half"])
    assert float(losses["half"][-1]) == pytest.approx(float(losses["full"][-1]), abs=0.05)
    assert float(losses["half"][-1]) < 0.8 * float(losses["half"][0])
    assert weights(half).dtype == torch.float32


def test_a_step_that_overflows_in_fp16_is_left_out():
    engine = trainer(batches(2, 2), epochs=1, precision="fp16", scheduled=True, ema=0.9)
    engine.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    start = weights(engine)
    engine.run()
    assert torch.equal(weights(engine), start)
    assert engine.lr_scheduler.last_epoch == 0
    assert int(engine.average.n_averaged) == 0
    assert engine.grad_scaler.get_scale() < 2.0**120


def test_an_unknown_precision_is_refused_at_once():
    with pytest.raises(ValueError, match="'half' is unknown; choose one of auto, fp32, bf16, fp16"):
        trainer(batches(1, 1), precision="half")


def test_the_average_is_that_of_its_formula():
    engine = trainer(batches(5, 2), epochs=4, ema=0.4, network=Tiny(3, dropout=0.0, norm="batch"))
    steps = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: steps.append(weights(e).double()))
    engine.run()
    expected = steps[0]
    for n, step in enumerate(steps[1:], start=1):
        decay = min(0.4, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * step
    found = torch.cat([p.flatten() for p in engine.average.parameters()])
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        buffers = [dict(n.named_buffers())[f"body.1.{name}"] for n in (engine.average.module, engine.network)]
        assert torch.equal(*buffers), "running statistics are taken over, not averaged"
    assert averaged(engine.network, None) is None


@pytest.mark.parametrize("dims", [2, 3])
def test_channels_last_changes_nothing_but_the_memory(dims):
    data = batches(3, 2, (8,) * dims)
    seen = []

    class Watch(Tiny):
        def forward(self, x):
            # one channel is contiguous in both orders: the first convolution's output tells
            y = self.body[0](x)
            seen.append(
                y.is_contiguous(memory_format=torch.channels_last_3d if dims == 3 else torch.channels_last)
            )
            return self.body[1:](y)

    plain = trainer(data, dims=dims)
    torch.manual_seed(0)
    last = trainer(data, dims=dims, channels_last=True, network=Watch(3, dims, dropout=0, norm="group"))
    plain.run()
    last.run()
    assert all(seen)
    torch.testing.assert_close(weights(last), weights(plain), atol=1e-5, rtol=1e-4)


def test_a_compiled_network_learns_the_same():
    data = batches(2, 2, (4, 4, 4))
    plain = trainer(data)
    compiled = trainer(data, compile=True, compile_kwargs={"backend": "aot_eager"})
    assert hasattr(compiled.network, "_orig_mod")
    plain.run()
    compiled.run()
    torch.testing.assert_close(weights(compiled), weights(plain), atol=1e-6, rtol=1e-5)
    assert not any(name.startswith("_orig_mod") for name in unwrapped(compiled.network).state_dict())


@pytest.mark.parametrize("interval", [1, 10])
def test_a_loss_that_is_not_finite_stops_and_names_the_cases(interval):
    data = batches(4, 2)
    data[2]["image"][1, 0, 0, 0, 0] = math.nan
    engine = trainer(data, epochs=3)
    engine.check_interval = interval  # 10 is what a GPU does
    with pytest.raises(
        NonFiniteLossError, match=r"nan at iteration 3 \(epoch 1\) .* case4, case5; .*learning_rate"
    ):
        engine.run()
    assert engine.state.iteration == (3 if interval == 1 else 4)
    if interval == 1:
        assert torch.isfinite(weights(engine)).all()


def test_the_network_is_found_behind_every_wrapper(tmp_path):
    network = Tiny(2)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        parallel = torch.nn.parallel.DistributedDataParallel(copy.deepcopy(network))
        wrapped = [network, torch.compile(network), parallel, torch.compile(parallel)]
        for outer in wrapped:
            assert isinstance(unwrapped(outer), Tiny)
            assert list(unwrapped(outer).state_dict()) == list(network.state_dict())
    finally:
        torch.distributed.destroy_process_group()


def evaluator(data, preprocess, classes=3, roi_size=(8, 8, 8), **options):
    return SegEvaluator(
        "cpu",
        volume_loader(VolumeDataset(data, preprocess)),
        Oracle(classes),
        preprocess,
        [NAMES[value] for value in range(1, classes)],
        SlidingWindow(roi_size),
        **options,
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("roi_size", [(8, 8, 8), (8, 8), (64, 64, 64)])
def test_who_knows_the_answer_has_dice_one_on_the_files_grid(tmp_path, roi_size, precision):
    data = [write_ct(tmp_path, "a", affine=OBLIQUE), write_ct(tmp_path, "b", classes=(2,), affine=OBLIQUE)]
    saved = {}
    engine = evaluator(
        data,
        Preprocess(crop_above=-990, crop_margin=1),
        classes=4,
        roi_size=roi_size,
        precision=precision,
        on_prediction=lambda item, labels: saved.update({item["case"]: labels}),
    )
    engine.run(7)
    assert [case["case"] for case in engine.state.cases] == ["a", "b"]
    assert engine.state.cases[0]["dice"]["lung"] == engine.state.cases[0]["dice"]["liver"] == 1.0
    assert engine.state.cases[1]["dice"]["liver"] == 1.0
    assert math.isnan(engine.state.cases[1]["dice"]["lung"])
    assert all(math.isnan(case["dice"]["bone"]) for case in engine.state.cases)
    assert engine.state.epoch == 7
    for case in data:
        reference = read_label(case["label"])
        assert torch.equal(saved[case["case"]].as_tensor(), reference.as_tensor())
        np.testing.assert_array_equal(saved[case["case"]].affine, reference.affine)
    confusion = engine.state.confusion
    assert confusion.dtype == torch.int64
    assert confusion.shape == (4, 4)
    assert torch.equal(confusion, confusion.diag().diag()), "nothing is mistaken"
    maps = [read_label(case["label"]) for case in data]
    assert confusion.diag().tolist() == [sum(int((m == value).sum()) for m in maps) for value in range(4)]
    engine.run(8)
    assert len(engine.state.cases) == 2, "a second run starts its list anew"
    assert torch.equal(engine.state.confusion, confusion)


def test_surfaces_are_measured_where_a_tolerance_is_given(tmp_path):
    data = [write_ct(tmp_path, "a", affine=OBLIQUE)]
    seen = []
    options = {"on_score": lambda item, labels, record: seen.append((item["case"], labels.shape, record))}
    engine = evaluator(
        data, Preprocess(spacing=1.6), surface_tolerance={"lung": 1.0, "liver": 2.0}, **options
    )
    engine.run()
    (record,) = engine.state.cases
    assert set(METRICS) < set(record)
    assert 0 < record["hd95_mm"]["liver"] < 3
    assert record["nsd"]["liver"] > 0.9
    assert seen == [("a", (1, *read_label(data[0]["label"]).shape[1:]), record)]
    plain = evaluator(data, Preprocess(spacing=1.6))
    plain.run()
    assert "hd95_mm" not in plain.state.cases[0]
    assert plain.state.cases[0]["dice"] == record["dice"]
    with pytest.raises(ValueError, match="no number for the class 'liver'"):
        evaluator(data, Preprocess(), surface_tolerance={"lung": 1.0})


def test_a_coarser_network_grid_still_scores_on_the_files_grid(tmp_path):
    data = [write_ct(tmp_path, "a", affine=OBLIQUE)]
    engine = evaluator(data, Preprocess(spacing=1.6))
    engine.run()
    scores = engine.state.cases[0]["dice"]
    assert 0.8 < scores["liver"] < 1.0
    assert engine.state.output["pred"].shape == (1, *read_label(data[0]["label"]).shape[1:])


def test_the_label_of_another_image_is_refused(tmp_path):
    data = [write_ct(tmp_path, "a"), write_ct(tmp_path, "b", affine=np.diag([1, 1, 2.0, 1]))]
    data[0]["label"] = data[1]["label"]
    with pytest.raises(ImageError, match="the label of case a"):
        evaluator(data[:1], Preprocess()).run()


def test_around_a_small_image_the_network_sees_what_it_saw_in_training(tmp_path):
    """Normalised images have no fixed value of air, so the window pads with what the case's loader says."""
    data = [write_ct(tmp_path, "a", shape=(6, 6, 6))]
    preprocess = Preprocess(window=None)
    engine = evaluator(data, preprocess, roi_size=(12, 12, 12))
    seen = []
    engine.network.register_forward_pre_hook(lambda module, args: seen.append(args[0][0, 0, 0, 0, 0].item()))
    engine.run()
    intensity = preprocess.image(data[0]["image"]).intensity
    assert seen == pytest.approx([preprocess.padding_value(intensity)])
    assert seen[0] != -1.0


@pytest.mark.parametrize("spacing", [None, 1.7])
def test_probabilities_come_with_the_labels(tmp_path, spacing):
    data = [write_ct(tmp_path, "a", affine=OBLIQUE)]
    engine = evaluator(data, Preprocess(spacing=spacing))
    item = VolumeDataset(data, engine.preprocess)[0]
    labels, maps = engine.predict_with_probabilities(item)
    assert torch.equal(labels.as_tensor(), engine.predict(item).as_tensor())
    assert maps.shape == (3, *labels.shape[1:])
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps.sum(0).as_tensor(), torch.ones(labels.shape[1:]))
    assert torch.equal(maps.argmax(0).as_tensor(), labels[0].as_tensor().long())
    np.testing.assert_array_equal(maps.affine, labels.affine)


def test_any_inferer_of_monai_does(tmp_path):
    data = [write_ct(tmp_path, "a", affine=OBLIQUE)]
    own = evaluator(data, Preprocess(spacing=1.7))
    item = VolumeDataset(data, own.preprocess)[0]
    expected = own.predict(item)
    own.inferer = SlidingWindowInferer((8, 8, 8), 2, 0.5, mode="gaussian", cval=-1.0)
    assert torch.equal(own.predict(item).as_tensor(), expected.as_tensor())


def test_a_network_of_other_classes_is_named(tmp_path):
    data = [write_ct(tmp_path, "a")]
    engine = evaluator(data, Preprocess())
    engine.class_names.append("bone")
    with pytest.raises(ValueError, match="gives 3 classes, but 4 are named"):
        engine.run()


def test_one_channel_of_foreground_is_no_set_of_classes(tmp_path):
    data = [write_ct(tmp_path, "a")]
    engine = evaluator(data, Preprocess(), classes=2)
    engine.network = torch.nn.Conv3d(1, 1, 1)
    with pytest.raises(ValueError, match=r"gives 1 classes, but 2 are named.*one channel for the foreground"):
        engine.run()


@pytest.mark.parametrize("spacing", [None, 1.7])
def test_a_network_that_overflows_gives_no_labels(tmp_path, spacing):
    data = [write_ct(tmp_path, "a")]
    engine = evaluator(data, Preprocess(spacing=spacing), precision="fp16")
    engine.network = torch.nn.Conv3d(1, 3, 1)
    torch.nn.init.constant_(engine.network.bias, 1e6)
    with pytest.raises(NonFiniteError, match="--precision fp32"):
        engine.run()


def test_a_tilted_ct_is_restored_alike_in_every_precision(tmp_path):
    """Its rows are so long that a place along them is wrong by a voxel where it has only 8 bits."""
    affine = np.diag([0.9, 0.8, 2.5, 1.0])
    affine[1, 2] = 2.5 * np.tan(np.radians(20))
    data = [write_ct(tmp_path, "a", shape=(20, 300, 16), affine=affine)]
    engine = evaluator(data, Preprocess(spacing=1.5), roi_size=(16, 64, 16))
    item = VolumeDataset(data, engine.preprocess)[0]
    expected = engine.predict(item)
    for precision in ("bf16", "fp16"):
        engine.precision = precision
        assert torch.equal(engine.predict(item).as_tensor(), expected.as_tensor())


def test_images_without_a_label_are_predicted_and_not_scored(tmp_path):
    data = [write_ct(tmp_path, "a")]
    del data[0]["label"]
    engine = evaluator(data, Preprocess())
    engine.run()
    assert engine.state.cases == []
    assert engine.state.output["pred"].unique().tolist() == [0, 1, 2]
