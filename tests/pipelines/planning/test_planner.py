"""Plans of datasets of every kind, on machines of every kind."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from networks.strides import strides_for
from pipelines.planning.knobs import PLANNED
from pipelines.planning.plan_file import PlanError
from pipelines.planning.planner import make_plan
from pipelines.planning.records import Fingerprint, Plan
from pipelines.planning.rules.schedule import minutes_for
from tests.pipelines.planning.generated import (
    CT,
    DATASETS,
    MR,
    Machine,
    case,
    channel,
    dataset,
    structure,
    uniform,
)

GB = 2**30
R2UNET = tuple(PLANNED)
UPERNET = tuple(name for name in PLANNED if name != "features")
RATE = {"learning_rate": 0.004}


def planned(
    fingerprint: Fingerprint,
    minutes: float | None = 20.0,
    machine: Machine | None = None,
    knobs: tuple[str, ...] = R2UNET,
    **given: Any,
) -> Plan:
    machine = machine or Machine(8 * GB, classes=len(fingerprint["labels"]))
    wanted = [name for name in knobs if name not in given]
    return make_plan(fingerprint, given, minutes, machine.memory, machine, wanted, RATE)


def require_valid(plan: Plan, machine: Machine, knobs: tuple[str, ...] = R2UNET) -> None:
    """What holds of every plan."""
    assert list(plan.values) == [name for name in PLANNED if name in knobs and name not in plan.given]
    value = {name: planned.value for name, planned in plan.values.items()} | plan.given
    for name, (_, reason) in plan.values.items():
        assert reason.strip(), name
        assert not reason.endswith("."), name
    patch, spacing = value["patch_size"], value["spacing"]
    assert len(patch) in (2, 3)
    assert min(patch) >= 1
    assert len(spacing) >= len(patch)
    assert min(spacing) > 0
    levels = 5
    if "features" in knobs:
        features = value["features"]
        assert len(features) >= 2
        assert features == sorted(features)
        levels = len(features) - 1
    # What the networks ask of a patch: that it can be halved as often as their strides do.
    strides = strides_for(patch, spacing, levels)
    for axis, voxels in enumerate(patch):
        assert voxels % math.prod(stride[axis] for stride in strides) == 0
    assert value["batch_size"] >= 1
    assert value["epochs"] >= 1
    assert value["warmup_steps"] >= 1
    assert value["patches_per_epoch"] >= value["batch_size"]
    assert 1 <= value["val_interval"] <= value["epochs"]
    assert 0 <= value["foreground"] <= 1
    assert set(value["flip_axes"]) <= set(range(len(patch)))
    assert set(value["mirror_axes"]) <= set(value["flip_axes"])
    assert value["overlap"] in (0.5, 0.75)
    assert 0 < value["learning_rate"] <= RATE["learning_rate"]
    assert (value["schedule"], value["ema"]) in (("cosine", 0.99), ("wsd", 0.999))
    window = value["window"]
    assert window is None or (-1024 <= window[0] < window[1] <= 3071 and window[1] - window[0] >= 150)
    assert plan.cost == machine.cost(value)
    assert plan.cost is not None
    assert plan.cost.memory <= machine.memory


@pytest.mark.parametrize("minutes", [2.0, 20.0, 600.0, None])
@pytest.mark.parametrize("name", sorted(DATASETS))
def test_a_plan_of_anything_is_sane(name: str, minutes: float | None) -> None:
    for memory in (2, 64):
        for knobs in (R2UNET, UPERNET):
            machine = Machine(memory * GB, classes=len(DATASETS[name]["labels"]))
            plan = planned(DATASETS[name], minutes, machine, knobs)
            require_valid(plan, machine, knobs)
            assert len(machine.asked) <= 20
            if minutes is not None and not plan.notices:
                assert plan.minutes is not None
                assert 0.1 * minutes < plan.minutes <= 1.1 * minutes


def test_a_time_that_nobody_gave_follows_from_the_number_of_cases_and_is_told() -> None:
    plan, given = planned(DATASETS["tiny"], None), planned(DATASETS["tiny"], minutes_for(160))
    assert plan.values == given.values
    assert [notice for notice in plan.notices if notice not in given.notices] == [
        "planned for 63 minutes, as nobody said how many; give --minutes for a longer or shorter training"
    ]


SIZES = st.integers(1, 600)
SPACINGS = st.floats(0.2, 10)


@st.composite
def fingerprints(draw: st.DrawFn) -> Fingerprint:
    axes = draw(st.sampled_from([2, 3, 3]))
    channels = [draw(st.sampled_from([CT, MR])) for _ in range(draw(st.integers(1, 3)))]
    classes = draw(st.integers(0, 4))
    cases = []
    for number in range(draw(st.integers(1, 6))):
        shape = [draw(SIZES) for _ in range(axes)]
        spacing = [draw(SPACINGS) for _ in range(axes)]
        found = {}
        for label in range(1, classes + 1):
            share = draw(st.floats(0.01, 1))
            extent = [max(s, n * s * share) for n, s in zip(shape, spacing, strict=True)]
            centre = [draw(st.floats(0, 1)) for _ in range(axes)]
            found[str(label)] = structure(extent, spacing, centre, draw(st.integers(1, 30)))
        body = [n * s * draw(st.floats(0.2, 1)) for n, s in zip(shape, spacing, strict=True)]
        cases.append(case(f"case{number}", shape, spacing, found, channels, body))
    return dataset(cases)


@settings(max_examples=60, deadline=None)
@given(
    fingerprints(),
    st.one_of(st.none(), st.floats(0.5, 1000)),
    st.sampled_from([2, 8, 80]),
    st.sampled_from([1e5, 1e6, 1e8]),
    st.sampled_from([R2UNET, UPERNET]),
)
def test_a_plan_is_always_valid(
    fingerprint: Fingerprint, minutes: float | None, memory: int, speed: float, knobs: tuple[str, ...]
) -> None:
    machine = Machine(memory * GB, speed, len(fingerprint["labels"]))
    require_valid(planned(fingerprint, minutes, machine, knobs), machine, knobs)


def test_the_same_dataset_and_machine_have_the_same_plan() -> None:
    assert planned(DATASETS["thick slices"]) == planned(DATASETS["thick slices"])


def test_more_time_is_spent_on_more_steps_finer_voxels_and_wider_networks() -> None:
    """With a thousand times the time nothing is worse, and each of them better."""
    short, long = (
        planned(DATASETS["huge CT"], minutes, Machine(64 * GB)).values for minutes in (20.0, 20_000.0)
    )
    assert short["features"].value[0] < long["features"].value[0]
    assert max(short["spacing"].value) > max(long["spacing"].value)
    assert math.prod(short["patch_size"].value) < math.prod(long["patch_size"].value)

    def steps(plan: dict[str, Any]) -> int:
        return plan["epochs"].value * plan["patches_per_epoch"].value // plan["batch_size"].value

    assert steps(short) < steps(long)
    assert short["learning_rate"].value > long["learning_rate"].value


def test_less_memory_has_smaller_patches_and_says_so() -> None:
    machines = (Machine(m * GB) for m in (1, 64))
    small, large = (planned(DATASETS["huge CT"], 600.0, m, spacing=1.0, features=[16, 32]) for m in machines)
    assert math.prod(small.values["patch_size"].value) < math.prod(large.values["patch_size"].value)
    assert "would not keep the memory of 1 GB" in small.values["patch_size"].reason


def test_tiny_volumes_keep_their_voxels_and_are_seen_in_parts() -> None:
    plan = planned(DATASETS["tiny"]).values
    assert plan["patch_size"].value == [32, 32, 32]
    assert plan["spacing"].value == [1.0, 1.0, 1.0]
    assert plan["foreground"].value > 0
    assert len(plan["features"].value) == 4


def test_the_whole_tiny_volume_as_a_given_patch_needs_no_share_of_foreground() -> None:
    plan = planned(DATASETS["tiny"], patch_size=[40, 56, 40]).values
    assert plan["foreground"].value == 0.0


def test_structures_of_three_voxels_keep_the_full_resolution_however_short_the_time() -> None:
    assert planned(DATASETS["3 voxels"], 2.0).values["spacing"].value == [0.8, 0.8, 0.8]


def test_thick_slices_keep_their_number_and_patches_are_short_along_them() -> None:
    plan = planned(DATASETS["thick slices"]).values
    assert plan["spacing"].value[2] == 5.0
    assert plan["patch_size"].value[2] <= 20 < plan["patch_size"].value[0]


def test_pictures_have_two_axes_and_stay_as_they_are() -> None:
    plan = planned(DATASETS["microscopy"]).values
    assert len(plan["patch_size"].value) == 2
    assert plan["spacing"].value == [1.0, 1.0]
    assert plan["window"].value is None
    assert plan["crop_above"].value is None


def test_single_slices_have_two_axes_though_their_files_have_three() -> None:
    plan = planned(uniform((200, 180, 1), (1.0, 1.0, 5.0), [(50, 50, 5)])).values
    assert len(plan["patch_size"].value) == 2
    assert len(plan["spacing"].value) == 3


def test_what_is_given_wins_and_the_rest_is_planned_around_it() -> None:
    patch = planned(DATASETS["huge CT"], patch_size=[48, 48, 96], spacing=3.0)
    assert "patch_size" not in patch.values
    assert patch.given == {"spacing": 3.0, "patch_size": [48, 48, 96]}
    assert len(patch.values["features"].value) - 1 == 4
    wide = planned(DATASETS["huge CT"], features=[48, 96, 192])
    assert all(n % 4 == 0 for n in wide.values["patch_size"].value)
    assert wide.cost is not None
    assert wide.cost.memory <= 8 * GB
    long = planned(DATASETS["tiny"], epochs=7)
    assert long.values["val_interval"].value <= 7
    assert long.minutes is not None
    assert 10 < long.minutes <= 20


def test_the_rate_falls_late_where_the_training_sees_every_voxel_often() -> None:
    tiny = DATASETS["tiny"]
    short, long = (
        planned(tiny, 20.0, epochs=n, patches_per_epoch=10, batch_size=1).values for n in (1, 10_000)
    )
    assert (short["schedule"].value, short["ema"].value) == ("cosine", 0.99)
    assert (long["schedule"].value, long["ema"].value) == ("wsd", 0.999)
    given = planned(tiny, 20.0, epochs=1, patches_per_epoch=10, schedule="constant")
    assert "schedule" not in given.values
    assert given.values["ema"].value == 0.999


def test_a_given_length_is_kept_and_told_where_it_takes_longer_than_the_time() -> None:
    plan = planned(DATASETS["3 voxels"], 2.0, epochs=50, patches_per_epoch=100, batch_size=2)
    assert plan.minutes is not None
    assert plan.minutes > 2
    assert any("longer than 2" in notice for notice in plan.notices)


def test_slices_of_volumes_may_be_asked_for() -> None:
    plan = planned(DATASETS["huge CT"], patch_size=[256, 256])
    assert any("axial slice" in notice for notice in plan.notices)
    assert set(plan.values["flip_axes"].value) <= {0, 1}


def test_passes_of_predictions_are_planned_around_what_is_given() -> None:
    tiny = DATASETS["tiny"]
    assert planned(tiny, machine=Machine(8 * GB, speed=3e6), flip_axes=None).values["mirror_axes"].value == [
        0,
        1,
        2,
    ]
    assert planned(tiny, flip_axes=[]).values["mirror_axes"].value == []
    assert "overlap" not in planned(tiny, overlap=[0.5, 0.5, 0.75]).values
    assert "mirror_axes" not in planned(tiny, mirror_axes=[2]).values


def test_little_time_is_told() -> None:
    plan = planned(DATASETS["3 voxels"], 1.0, Machine(8 * GB, speed=1e5))
    assert any("hardly" in notice for notice in plan.notices)


def test_a_window_on_images_without_hounsfield_units_is_told() -> None:
    plan = planned(DATASETS["4-channel MR"], window=[-100, 200])
    assert any("is not used" in notice for notice in plan.notices)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("huge CT", {"patch_size": [512, 512, 512]}, "no step of patch_size"),
        ("microscopy", {"patch_size": [64, 64, 64]}, "three axes"),
        ("one class", {"patch_size": [33, 32, 32]}, "give 32 x 32 x 32"),
        ("one class", {"patch_size": [36, 32, 32], "features": [8, 16, 32, 64, 128]}, "halved 4 times"),
        ("one class", {"spacing": [1.0, 1.0]}, "3 axes"),
        ("one class", {"spacing": 0.0}, "above 0"),
        ("4-channel MR", {"normalization": ["zscore"]}, "4 channels"),
        ("one class", {"normalization": ["minmax"]}, "'minmax' is not known"),
    ],
)
def test_what_cannot_work_is_told(name: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        planned(DATASETS[name], **given)


def test_a_machine_that_can_do_no_step_is_told() -> None:
    with pytest.raises(PlanError, match="give more memory"):
        planned(DATASETS["one class"], machine=Machine(10**6))


def test_a_dataset_without_cases_is_told() -> None:
    with pytest.raises(PlanError, match="no training case"):
        planned(dataset([]))


def test_a_case_without_a_label_in_it_is_planned_too() -> None:
    empty = dataset([case("a", (64, 64, 64), (1, 1, 1), {}, [channel()])])
    machine = Machine(8 * GB)
    require_valid(planned(empty, machine=machine), machine)
