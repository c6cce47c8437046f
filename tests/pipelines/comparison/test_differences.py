"""What else differs between runs: configuration, code, data, machine."""

import math

from pipelines.comparison.comparison import compare
from pipelines.comparison.differences import config_differences, origin_differences
from pipelines.comparison.text_report import as_text
from tests.pipelines.comparison.some_results import results


def test_differences_of_config_and_origin() -> None:
    first = results(
        "a",
        [[0.1, 0.2]],
        params={"seed": "1", "epochs": "5", "run_name": "a", "network_def.features": "[8]", "old": "1"},
        tags={
            "mlflow.source.git.commit": "1" * 40,
            "version.torch": "2.13",
            "host": "h",
            "mlflow.user": "me",
        },
    )
    second = results(
        "b",
        [[0.1, 0.2]],
        params={"seed": "1", "epochs": "6", "run_name": "b", "network_def.features": "[16]", "new": "2"},
        tags={"mlflow.source.git.commit": "2" * 40, "version.torch": "2.13", "mlflow.user": "you"},
    )
    found = config_differences([first, second])
    assert [(d.name, d.values) for d in found] == [
        ("epochs", ["5", "6"]),
        ("new", [None, "2"]),
        ("old", ["1", None]),
        ("network_def.features", ["[8]", "[16]"]),
        ("run_name", ["a", "b"]),
    ]
    assert [(d.name, d.values) for d in origin_differences([first, second])] == [
        ("mlflow.source.git.commit", ["1" * 40, "2" * 40]),
        ("host", ["h", None]),
    ]
    text = as_text(compare([first, second]))
    assert "configuration: 5 differences" in text
    assert "  new: (none) | 2" in text
    assert math.isnan(compare([first, second]).rows[0].statistics.p)
