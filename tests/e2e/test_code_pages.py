"""A class called 右肺 where the terminal or the log file has no such characters: every command works to its end."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.e2e.commands import SMALL, Workplace
from tests.pipelines.small import write_ct

LUNG, LIVER = "右肺", "foie gras 🏃"
ENVIRONMENTS = {
    # A Windows program whose output goes to a file.
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    # A batch job in the C locale; Python's own ways out are closed. All text files are ASCII by default, too.
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


def write_cohort(folder: Path) -> Path:
    cases = [write_ct(folder, f"ct{index}") for index in range(3)]
    entries = [{"image": case["image"], "label": case["label"]} for case in cases]
    content = {
        "name": "胸部",
        "labels": {"0": "background", "1": LUNG, "2": LIVER},
        "training": entries[:2],
        "validation": entries[2:],
    }
    text = json.dumps(content, ensure_ascii=False)
    (folder / "dataset.json").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", ENVIRONMENTS)
def test_every_command_ends_well(tmp_path: Path, page: str) -> None:
    data, place = write_cohort(tmp_path / "data"), Workplace(tmp_path)
    given = ENVIRONMENTS[page]
    for name in ("PYTHONIOENCODING", "PYTHONUTF8", "LC_ALL", "PYTHONCOERCECLOCALE"):
        place.environment.pop(name, None)
    encoding = "ascii" if page == "C" else page

    def run(*words: str) -> str:
        result: subprocess.CompletedProcess = place.run([*map(str, words)], encoding=encoding, **given)
        assert "Error" not in result.stderr, result.stderr
        return result.stdout

    small = SMALL | {"epochs": 1, "patches_per_epoch": 2, "patch_size": "[16,16,16]", "spacing": "[1,1,1]"}
    said = run(*place.training("r2unet", dataset_dir=data, **small))
    number = r"\u53f3\u80ba"
    assert number in said
    (trained,) = place.runs("r2unet")
    assert trained.info.status == "FINISHED"
    assert f"val_dice_{LUNG}" in trained.data.metrics

    knobs = ("--bundle_root", place.root, "--dataset_dir", data, "--precision", "fp32")
    said = run("-m", "monai.bundle", "run", "--config_file", "bundles/r2unet/evaluate.json", *knobs)
    assert number in said
    (evaluated,) = place.runs("r2unet", kind="evaluation")
    assert evaluated.info.status == "FINISHED"

    out, model = tmp_path / "out", place.root / "models" / "model.pt"
    predict = ("predict", data, "-o", out, "--bundle", "bundles/r2unet", "--model", model)
    assert number in run("-m", "pipelines", *predict, "--precision", "fp32", "--preview", "--device", "cpu")
    labels = json.loads((out / "labels.json").read_text(encoding="utf-8"))
    assert labels["1"] == LUNG
    assert LUNG in (out / "index.html").read_text(encoding="utf-8")

    assert number in run("-m", "pipelines", "check", data)
    found = json.loads(run("-m", "pipelines", "check", data, "--json", "-"))
    assert LUNG in json.dumps(found, ensure_ascii=False)

    compared = ("evaluate", out, data / "labelsTr", "--labels", data / "dataset.json")
    assert number in run("-m", "pipelines", *compared, "-o", tmp_path / "metrics")
    found = json.loads(run("-m", "pipelines", *compared, "--json"))
    assert found["classes"] == [LUNG, LIVER]

    runs = (trained.info.run_id, evaluated.info.run_id)
    assert number in run("-m", "pipelines", "compare", *runs, "--csv", tmp_path / "compared.csv")
    assert LUNG in (tmp_path / "compared.csv").read_text(encoding="utf-8-sig")
