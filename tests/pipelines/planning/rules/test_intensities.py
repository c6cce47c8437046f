import pytest

from pipelines.planning.records import Fingerprint
from pipelines.planning.rules import intensities
from tests.pipelines.planning.generated import CT, MR, case, channel, dataset, uniform

SHAPE, SPACING = (64, 64, 64), (1.0, 1.0, 1.0)


def of(*channels: dict, names: tuple[str, ...] = (), body: tuple[float, ...] | None = None) -> Fingerprint:
    return uniform(SHAPE, SPACING, [(30, 30, 30)], channels=channels, body=body, channel_names=list(names))


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("CT", "CT"),
        ("ct", "CT"),
        ("zScore", "zscore"),
        ("rescale_to_0_1", "rescale_to_0_1"),
        ("rgb_to_0_1", "rgb_to_0_1"),
        ("noNorm", "noNorm"),
        ("T2", "zscore"),
        ("MRI", "zscore"),
    ],
)
def test_names_decide(name: str, word: str) -> None:
    (words, reason), notices = intensities.normalization(of(CT, names=(name,)))
    assert words == [word]
    assert name in reason
    assert notices == []


def test_without_names_the_values_decide() -> None:
    assert intensities.normalization(of(CT, MR))[0].value == ["CT", "zscore"]


def test_the_reason_of_a_hundred_channels_stays_short_enough_to_be_read() -> None:
    names = ["CT", "noNorm", *(f"echo {n}" for n in range(98))]
    (words, reason), _ = intensities.normalization(of(CT, *[MR] * 99, names=tuple(names)))
    assert words == ["CT", "noNorm", *["zscore"] * 98]
    assert "channel 0 (CT): dataset.json calls it CT; channel 1 (noNorm): " in reason
    assert (
        "channels 2 (echo 0), 3 (echo 1), 4 (echo 2), 5 (echo 3) and 94 more: the values have no unit"
        in reason
    )
    assert len(reason) < 400


def test_channels_that_are_all_alike_are_told_at_once() -> None:
    reason = intensities.normalization(of(MR, MR, names=("T1", "T2")))[0].reason
    assert reason.startswith("all 2 channels: the values have no unit")


def test_a_crop_of_a_ct_shows_no_air_but_is_one() -> None:
    crop = channel((-100, 300), (-150, 1200), hounsfield=True)
    assert intensities.normalization(of(crop))[0].value == ["CT"]


def test_values_that_may_be_hounsfield_units_but_show_nothing_of_a_ct_are_none() -> None:
    mr = channel((0, 200), (0, 900), hounsfield=True)
    assert intensities.normalization(of(mr))[0].value == ["zscore"]


def test_a_channel_that_is_called_ct_but_is_none_is_told() -> None:
    (words, _), notices = intensities.normalization(of(channel((0, 255), (0, 255)), names=("CT",)))
    assert words == ["zscore"]
    assert "case000 and 19 more" in notices[0]


def test_a_single_case_without_hounsfield_units_is_named_and_the_others_stay_ct() -> None:
    cases = [case(f"c{n}", SHAPE, SPACING, {}, [CT]) for n in range(19)]
    cases.append(case("odd", SHAPE, SPACING, {}, [channel((0, 255), (0, 255))]))
    (words, _), notices = intensities.normalization(dataset(cases))
    assert words == ["CT"]
    assert "odd" in notices[0]


def test_the_window_holds_what_is_labelled_with_a_margin() -> None:
    value, reason = intensities.window(of(channel((-100, 300), (-1000, 900), True, 0.4)), ["CT"])
    # 0.5% and 99.5% of an even spread are -98 and 298; a fifth of 396 on both sides
    assert value == [-180.0, 380.0]
    assert "-98 to 298 HU" in reason


@pytest.mark.parametrize(
    ("inside", "expected"),
    [((40, 60), (-30, 130)), ((-1024, -700), (-1024, -630)), ((3000, 3071), (2920, 3071))],
)
def test_a_window_is_wide_enough_and_stays_within_what_a_scanner_holds(
    inside: tuple[float, float], expected: tuple[float, float]
) -> None:
    lower, upper = intensities.window(of(channel(inside, (-1000, 900), True, 0.4)), ["CT"]).value
    assert upper - lower >= 150
    assert (lower, upper) == expected


def test_no_ct_no_window() -> None:
    assert intensities.window(of(MR), ["zscore"]).value is None


def test_without_a_labelled_voxel_all_is_kept() -> None:
    empty = {**CT, "inside": {"voxels": 0, "mean": 0.0, "deviation": 0.0, "quantiles": []}}
    assert intensities.window(of(empty), ["CT"]).value == [-1024.0, 3071.0]


def test_air_is_cut_away_where_there_is_much() -> None:
    assert intensities.crop_above(of(CT, body=(50, 40, 64)), ["CT"]).value == -500.0
    assert intensities.crop_above(of(CT, body=(63, 62, 64)), ["CT"]).value is None
    assert intensities.crop_above(of(MR, body=(20, 20, 20)), ["zscore"]).value is None
    assert intensities.crop_above(of(CT, MR, body=(20, 20, 20)), ["CT", "zscore"]).value == -500.0
