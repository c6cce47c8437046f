"""Predicts all cases of a dataset: read, segment, write, report."""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

from monai.data import MetaTensor
from tqdm import tqdm

from pipelines.config.errors import problem, user_error
from pipelines.config.executed import ExecutedConfig
from pipelines.data.cases import CaseItem, first_image, image_paths, reading
from pipelines.data.volume_dataset import VolumeDataset
from pipelines.distributed.collectives import ranks
from pipelines.inference.case_reports import (
    CaseReport,
    Fingerprint,
    Request,
    fingerprint,
    is_done,
    read_report,
    read_reports,
)
from pipelines.inference.claims import Claims
from pipelines.inference.evaluator import SegEvaluator
from pipelines.inference.loaded_case import LoadedCase, load_case
from pipelines.inference.outputs import UNFINISHED, OutputError, Outputs
from pipelines.inference.postprocess import Postprocess
from pipelines.inference.prediction_settings import settings_of
from pipelines.inference.trained_model import TrainedModel
from pipelines.metrics.result_files import without_nan
from pipelines.metrics.summary import Scores, table
from pipelines.metrics.volumes import measure
from pipelines.utils.anonymity import is_anonymous, without_places
from pipelines.utils.progress import Steps
from pipelines.utils.provenance import versions
from pipelines.utils.signals import terminating
from transforms.errors import FAILED, ImageError, UserError
from transforms.preprocess import PreparedCase
from transforms.utils.threads import ahead

logger = logging.getLogger(__name__)


class PredictionError(UserError, ValueError):
    """Some cases failed; the message lists all of them."""

    exit_status = FAILED
    impersonal = True


class TakenError(Exception):
    """Another prediction into the same folder is working on the case at this moment."""


class Predicted(NamedTuple):
    """The report of a processed case, and the path of its first file; "" if the case failed."""

    report: CaseReport
    written: str


class Prediction:
    """Segments every case of a dataset and writes the requested files on the grid of each case.

    For each case, `<output>/<case>.nii.gz` (a PNG for a 2D image) and a report `<case>.json` are written; for all
    cases together `labels.json`, `volumes.csv`, and, if there are reference labels, `metrics.csv` and `metrics.json`.
    A case that fails does not stop the others. A case that is done according to its report, with the same input,
    model and settings, is not predicted again. The cases are divided among the processes of torchrun, and among
    predictions into one folder that run at the same time.

    Args:
        evaluator: its network, inferer and preprocessing are used, and the dataset of its data loader.
        labels: names of the classes by class id.
        output: output folder.
        model: the model or models of the evaluator.
        postprocess: postprocessing of each label map.
        formats, probabilities, preview: see `pipelines.inference.outputs.Outputs`.
        overwrite: predict finished cases again, and replace files that no earlier prediction wrote.
        config: the config of this run; its top-level settings are recorded in the reports.
        read_ahead: read the next case during a prediction, which needs more memory; by default only on a GPU.
    """

    def __init__(
        self,
        evaluator: SegEvaluator,
        labels: Mapping[int, str],
        output: str | os.PathLike,
        model: TrainedModel | Sequence[TrainedModel] = (),
        postprocess: Postprocess | None = None,
        formats: Sequence[str] | str = ("nii.gz",),
        probabilities: bool = False,
        preview: bool = False,
        overwrite: bool = False,
        config: ExecutedConfig | None = None,
        read_ahead: bool | None = None,
    ) -> None:
        self.evaluator = evaluator
        ct, regions = evaluator.preprocess.shows_ct, evaluator.regions
        self.outputs = Outputs(output, labels, formats, probabilities, preview, ct, regions)
        self.overwrite = overwrite
        self.postprocess = postprocess or Postprocess()
        self.postprocess.require_names(self.outputs.labels)
        models = list(model) if isinstance(model, Sequence) else [model]
        self.training = next((m.card["training_data"] for m in models if "training_data" in m.card), None)
        self.models = [digest for m in models for digest in m.card.get("members", [m.card["sha256"]])]
        self.settings = settings_of(evaluator, self.postprocess, config)
        self.run_id = ""
        self.read_ahead = evaluator.state.device.type == "cuda" if read_ahead is None else read_ahead
        self.dataset = cast(VolumeDataset, evaluator.data_loader.dataset)  # type: ignore[union-attr]
        self.dataset.keep_originals = True
        self.claims = Claims(self.outputs.folder / UNFINISHED / "claims")
        self._seen: dict[str, str] = {}

    def run(self) -> list[Path]:
        """Predict all cases; returns the paths of the first file, such as the label map, of each case done here.

        Raises:
            InputError: a file of the user would be replaced; raised before the first prediction.
            PredictionError: cases failed; raised at the end, with the reason of each.
        """
        cases: list[CaseItem] = self.dataset.data
        with ranks() as here, terminating():
            todo, done, self.run_id = here.first(lambda: (*self._plan(cases), uuid.uuid4().hex))
            own = todo[here.rank :: here.world]
            records: list[Predicted] = []
            everyone: list[Predicted] | None = None
            try:
                loads = ahead(self._load, own, self.read_ahead)
                # Every process prints a line for each of its cases, but only the first shows the progress.
                with Steps(len(own), "case", quiet=here.rank != 0) as steps:
                    elsewhere: list[int] = []
                    for index, load in loads:
                        try:
                            records.append(self._claimed(index, load))
                        except TakenError:
                            elsewhere.append(index)
                            continue
                        _say(records[-1])
                        steps.step()
                    if elsewhere:
                        tqdm.write(
                            f"{len(elsewhere)} cases are predicted by another process into this folder; waiting"
                        )
                    for index in elsewhere:
                        # If the other prediction was killed or failed, the case is predicted here.
                        self.claims.wait(cases[index]["case"])
                        records.append(self._claimed(index, partial(self._load, index)))
                        _say(records[-1])
                        steps.step()
                waits = f"waiting for the cases of the other {here.world - 1} processes"
                with Steps(None, waits, quiet=here.rank != 0 or here.world == 1):
                    everyone = here.gather(records)
            finally:
                # Also if this process is terminated or another one was killed, so that every failure is reported.
                failures = ""
                if here.rank == 0:
                    reports = None if everyone is None else [each.report for each in everyone]
                    failures = self._finish(cases, todo, done, reports)
                if sys.exc_info()[0] is not None and failures:
                    print(failures, file=sys.stderr)
        if failures:
            raise PredictionError(failures)
        if everyone is None:
            # Rank 0 reports the reason. For failed cases it alone exits with 1, else torchrun might stop it before.
            sys.exit(1)
        return [Path(each.written) for each in records if each.written]

    def _plan(self, cases: Sequence[CaseItem]) -> tuple[list[int], list[str]]:
        """Indices of the cases to predict, and names of the cases that are already done."""
        reports = self.outputs.require_room(cases, self.overwrite)
        self._seen = {name: str(report.get("run")) for name, report in reports.items()}
        todo, done = [], []
        with Steps(len(cases), "case", "looking for results of", leave=False, delay=2.0) as steps:
            for index, case in enumerate(cases):
                report = reports.get(case["case"])
                names = self.outputs.names(case)
                kept = report is not None and report["status"] == "done" and not self.overwrite
                if kept and is_done(report, self._wanted(case), self.outputs.folder, names):
                    done.append(case["case"])
                else:
                    todo.append(index)
                steps.step()
        return todo, done

    def _wanted(self, case: CaseItem) -> Request:
        return {
            "input": {**self._fingerprint(case, image_paths(case)), **without_places(reading(case))},
            "reference": self._fingerprint(case, case["label"]) if case.get("label") else None,
            "models": self.models,
            "labels": self.outputs.named_labels(),
            "settings": self.settings,
        }

    def _fingerprint(self, case: CaseItem, path: str | Sequence[str]) -> Fingerprint:
        found = fingerprint(path, self.outputs.folder)
        # Which file it was, only the digest says, of names, sizes and times together.
        return (
            {"path": case["case"], "files": found["files"], "digest": found["digest"]}
            if is_anonymous()
            else found
        )

    def _load(self, index: int) -> tuple[LoadedCase, Request]:
        """Read and prepare a case; with what its report compares.

        Raises:
            TakenError: another prediction is working on it.
        """
        case = self.dataset.data[index]
        if not self.claims.take(case["case"]):
            raise TakenError(case["case"])
        if case.get("problem"):
            raise ImageError(case["problem"])
        # Before it is read: a change meanwhile is seen by the next prediction.
        wanted = self._wanted(case)
        return load_case(self.dataset, index, self.outputs, self.training), wanted

    def _claimed(self, index: int, load: Callable[[], tuple[LoadedCase, Request]]) -> Predicted:
        """Predict one case under a claim of this process; raises TakenError as `_load` does."""
        case = self.dataset.data[index]
        try:
            if not self.claims.take(case["case"]):
                raise TakenError(case["case"])
            return self._done_meanwhile(case) or self._case(case, load)
        finally:
            self.claims.release(case["case"])

    def _done_meanwhile(self, case: CaseItem) -> Predicted | None:
        """The result of a case that another prediction has finished since this one started; None otherwise."""
        report = read_report(self.outputs.folder / f"{case['case']}.json")
        if report is None or report["status"] != "done" or report.get("run") == self._seen.get(case["case"]):
            return None
        try:
            same = is_done(report, self._wanted(case), self.outputs.folder, self.outputs.names(case))
        except (ImageError, OSError):  # reported when the case is read
            return None
        if same:
            return Predicted(report, self._first_file(report))
        elsewhere = (
            f"{case['case']}: another prediction with other settings writes to {self.outputs.folder} at the same time;"
            " choose another --output"
        )
        return Predicted({**report, "status": "failed", "error": elsewhere}, "")

    def _first_file(self, report: CaseReport) -> str:
        return str(self.outputs.folder / next(iter(report["outputs"]), ""))

    def _case(self, case: CaseItem, load: Callable[[], tuple[LoadedCase, Request]]) -> Predicted:
        report: CaseReport = {
            "case": case["case"],
            "status": "failed",
            "run": self.run_id,
            "notices": [],
            "input": {"path": case["case"] if is_anonymous() else os.path.abspath(first_image(case))},
            "versions": versions("segbundles", "torch", "monai", "numpy"),
            "computed": self.evaluator.computed,
        }
        try:
            loaded, wanted = load()
            report = {**report, **wanted, "notices": loaded.notices}
            started = time.perf_counter()
            found = self.evaluator.segment(loaded.item, self.outputs.probabilities)
            labels = self.postprocess(found.labels, self.outputs.labels)
            predicted = time.perf_counter() - started
            report["computed"] = self.evaluator.computed
            classes = measure(labels, self.outputs.labels)
            regions = self.outputs.regions
            report["volumes"] = measure(labels, self.outputs.labels, regions) if regions else classes
            if found.confidence is not None:
                # Of what is in the result, not of what its postprocessing took away.
                absent = [name for name, volume in classes.items() if not volume["voxels"]]
                report["confidence"] = found.confidence.confidence | dict.fromkeys(absent)
                report["surface_entropy"] = found.confidence.surface_entropy | dict.fromkeys(absent)
                if found.confidence.pass_agreement is not None:
                    report["pass_agreement"] = found.confidence.pass_agreement | dict.fromkeys(absent)
            report["metrics"] = self._metrics(case, loaded.item, labels)
            report["seconds"] = {"read": round(loaded.seconds, 3), "predict": round(predicted, 3)}
            report["status"] = "done"
            report["finished"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            whole = self.outputs.write(
                case, loaded.series, loaded.image, labels, found.probabilities, report, loaded.unwritable
            )
            return Predicted(whole, self._first_file(whole))
        except TakenError:
            raise
        except Exception as error:  # an error in one case must not stop the others
            known = user_error(error)
            report["status"] = "failed"
            report["error"] = problem(error, first_image(case))
            if known is None and not is_anonymous():
                report["traceback"] = traceback.format_exc()
            return Predicted(self._failed(report), "")

    def _failed(self, report: CaseReport) -> CaseReport:
        """Write the report of a failed case; existing results of an earlier run are kept and listed in it."""
        earlier = report["outputs"] = self.outputs.earlier_files(report["case"])
        if earlier:
            report["notices"] = [*report["notices"], f"of an earlier run: {', '.join(earlier)}"]
        try:
            return self.outputs.write_report(report)
        except (
            OutputError
        ) as error:  # with a full disk the report fails too; the error is still in the summary
            also = (
                "" if str(error) == report["error"] else f" Its report could not be written either: {error}"
            )
            return {**report, "error": f"{report['error']}{also}"}

    def _metrics(self, case: CaseItem, item: PreparedCase, labels: MetaTensor) -> Scores | None:
        if "label" not in item:
            return None
        try:
            return without_nan(self.evaluator.score(item, labels))
        except ImageError:
            raise
        except ValueError as error:
            raise ImageError(f"{case['label']}: {error}; correct the label map.") from error

    def _finish(
        self,
        cases: Sequence[CaseItem],
        todo: Sequence[int],
        done: Sequence[str],
        reports: Sequence[CaseReport] | None,
    ) -> str:
        """Write the tables over all cases and print a summary; returns the list of failures, "" if there are none.

        Args:
            reports: reports of all processes; with None they are read from the output folder.
        """
        if reports is None:
            written = read_reports(self.outputs.folder)
            found = [written[name] for index in todo if (name := cases[index]["case"]) in written]
            reports = [report for report in found if report.get("run") == self.run_id]
        summary, unwritten = None, ""
        try:
            with self.claims.held("-summary"):
                summary = self.outputs.summarise()
        except OutputError as error:
            unwritten = f"tables over all cases: {error}"
        self.outputs.tidy()
        failed = [report for report in reports if report["status"] != "done"]
        seen = {report["case"] for report in reports}
        missing = [cases[index]["case"] for index in todo if cases[index]["case"] not in seen]
        parts = [f"{len(reports) - len(failed)} of {len(cases)} cases segmented"]
        parts += [f"{len(done)} done before"] if done else []
        parts += [f"{len(failed)} failed"] if failed else []
        parts += [f"{len(missing)} not reached"] if missing else []
        if summary is not None:
            print(f"\n{table(summary)}\n")
        print(f"{', '.join(parts)}: {self.outputs.folder}", flush=True)
        if not failed and not missing:
            return unwritten
        lines = [f"{len(failed) + len(missing)} of {len(cases)} cases failed:"]
        for report in failed:
            trace = " (traceback in its report)" if report.get("traceback") else ""
            reason = report["error"].replace("\n", "\n    ")
            lines.append(f"  {report['case']}: {reason}{trace}")
        lines += [
            f"  {case}: not done, because its process ended; run the same command again" for case in missing
        ]
        return "\n".join([*lines, *([f"  {unwritten}"] if unwritten else [])])


def _say(predicted: Predicted) -> None:
    report = predicted.report
    if report["status"] == "done":
        tqdm.write(f"{report['input']['path']} -> {predicted.written}", file=sys.stdout)
    else:
        tqdm.write(f"failed: {report['case']} (the reason is listed at the end)", file=sys.stderr)
