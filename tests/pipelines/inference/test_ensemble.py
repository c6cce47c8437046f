"""Several models as one."""

import pytest
import torch

from networks import R2UNet
from pipelines.inference.ensemble import TrainedEnsemble, trained_model
from pipelines.inference.sliding_window import SlidingWindow
from pipelines.inference.trained_model import CheckpointError, TrainedModel
from pipelines.training.checkpoints import Checkpoints
from transforms.preprocess import Preprocess

DEFINITION = dict(spatial_dims=3, in_channels=1, out_channels=2, features=[4, 8])


def network(seed, definition):
    torch.manual_seed(seed)
    return R2UNet(**definition).eval()


def saved(folder, seed, spacing=None, patch_size=(16, 16, 16), definition=DEFINITION, **more):
    card = {
        "labels": {"0": "background", "1": "lung"},
        "patch_size": list(patch_size),
        "preprocessing": Preprocess(spacing=spacing).parameters(),
        "network": {"_target_": "networks.R2UNet", **definition},
        **more,
    }
    return Checkpoints(folder).save_model(network(seed, definition).state_dict(), card)


def test_logits_are_averaged(tmp_path):
    paths = [saved(tmp_path / str(seed), seed) for seed in range(3)]
    members = [TrainedModel(path) for path in paths]
    image = torch.randn(1, 1, 24, 20, 16, generator=torch.Generator().manual_seed(0))
    window = SlidingWindow((16, 16, 16), 2)
    with torch.inference_mode():
        expected = torch.stack([window(image, member.network) for member in members]).mean(0)
        for model in (trained_model(paths), trained_model(",".join(map(str, paths)))):
            assert isinstance(model, TrainedEnsemble)
            torch.testing.assert_close(window(image, model.network), expected, atol=1e-5, rtol=1e-4)
            assert not model.network.training
    assert model.class_names == ["lung"]
    assert model.card["members"] == [member.card["sha256"] for member in members]
    assert model.card["sha256"] not in model.card["members"]
    assert trained_model([paths[1], paths[0]]).card["sha256"] != trained_model(paths[:2]).card["sha256"]


def test_its_windows_lie_as_densely_as_the_densest_of_a_member(tmp_path):
    paths = [
        saved(tmp_path / str(n), n, overlap=overlap) for n, overlap in enumerate((0.25, [0.5, 0.75, 0.5]))
    ]
    assert [trained_model(path).overlap for path in paths] == [0.25, [0.5, 0.75, 0.5]]
    assert trained_model(paths).overlap == [0.5, 0.75, 0.5]
    assert trained_model(saved(tmp_path / "none", 3)).overlap == 0.5


def test_it_mirrors_along_the_axes_that_all_members_know(tmp_path):
    axes = ([0, 1], [1, 2], [2, 1])
    paths = [saved(tmp_path / str(n), n, mirror_axes=known) for n, known in enumerate(axes)]
    assert [trained_model(path).mirror_axes for path in paths] == [(0, 1), (1, 2), (2, 1)]
    assert trained_model(paths).mirror_axes == (1,)
    assert trained_model(paths[1:]).mirror_axes == (1, 2)
    assert trained_model([*paths, saved(tmp_path / "none", 3)]).mirror_axes == ()


def test_one_path_is_one_model(tmp_path):
    path = saved(tmp_path, 0)
    for given in (path, str(path), [path]):
        assert type(trained_model(given)) is TrainedModel


@pytest.mark.parametrize(
    ("other", "message"),
    [(dict(spacing=2.0), "has the preprocessing"), (dict(patch_size=(8, 8, 8)), r"patch size \(8, 8, 8\)")],
)
def test_models_that_do_not_belong_together_are_refused(tmp_path, other, message):
    paths = [saved(tmp_path / "a", 0), saved(tmp_path / "b", 1, **other)]
    with pytest.raises(CheckpointError, match=message):
        trained_model(paths)
