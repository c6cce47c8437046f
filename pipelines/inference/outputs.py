"""What is written for each case of a prediction, and for all of them together."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from monai.data import MetaTensor

from pipelines.data.cases import CaseItem, first_image, image_paths
from pipelines.data.inputs import InputError, named
from pipelines.inference.case_files import FORMATS, OutputPlan, failed, write_files
from pipelines.inference.case_reports import (
    CaseReport,
    read_report,
    read_reports,
    write_json_file,
    write_report,
)
from pipelines.metrics.result_files import write_csv, write_json
from pipelines.metrics.summary import CaseMetrics, Summary, summarise
from pipelines.metrics.volumes import write_volumes
from transforms.dicom.series import Series
from transforms.errors import UserError
from transforms.label_values import structures_of
from transforms.utils.files import FolderError, put_in_place, require_folder, way_out

UNFINISHED = ".unfinished"
"""Folder in the output folder where a case's files are made before they take their places."""
_SUMMARIES = ("labels.json", "volumes.csv", "metrics.csv", "metrics.json", "index.html")


class OutputError(UserError, OSError):
    """Results cannot be written; the message says where, why and what to do."""


class Outputs(OutputPlan):
    """The files of a prediction in one folder.

    Args:
        folder: where they go.
        labels: class id to name, background included.
        formats: any of "nii.gz" (a PNG for a 2D picture), "seg" (DICOM SEG), "rtstruct".
        probabilities: also write the probabilities of all classes.
        preview: also draw a picture of each case, and an `index.html` over all.
        ct: the images are in HU.
        regions: name to the class ids that make it up; volumes and DICOM files are then of these.

    Raises:
        InputError: a format is unknown.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        labels: Mapping[int, str],
        formats: Sequence[str] | str = ("nii.gz",),
        probabilities: bool = False,
        preview: bool = False,
        ct: bool = True,
        regions: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        super().__init__(
            Path(folder),
            {int(value): str(name) for value, name in sorted(labels.items())},
            named(formats),
            probabilities,
            preview,
            ct,
            {name: tuple(values) for name, values in (regions or {}).items()},
        )
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown:
            raise InputError(f"the format '{unknown[0]}' is unknown; choose from {', '.join(FORMATS)}")

    def require_room(self, cases: Sequence[CaseItem], overwrite: bool) -> dict[str, CaseReport]:
        """Check before anything is predicted that results can be written and that no file of the user is replaced.

        Returns:
            The reports that already lie in the folder, by case.

        Raises:
            InputError: naming the file and the way out.
        """
        reports = read_reports(self.folder)
        owners: dict[str, str] = dict.fromkeys(_SUMMARIES, "the summary of all cases")
        for case in cases:
            for name in (*self.names(case), f"{case['case']}.json"):
                other = owners.setdefault(name.casefold(), case["case"])
                if other != case["case"]:
                    raise InputError(
                        f"the case '{case['case']}' would write {name}, and so would "
                        f"{other if other.startswith('the ') else f'the case {other!r}'}; rename it"
                    )
            images = {os.path.realpath(path): path for path in image_paths(case)}
            results = {os.path.realpath(self.folder / name) for name in self.names(case)}
            for replaced in sorted(results & images.keys()):
                raise InputError(
                    f"the result would replace the image {images[replaced]}; choose another --output"
                )
        wanted = [name for name in self.formats if name != "nii.gz"]
        if wanted and cases and all(self.refusal(case) for case in cases):
            raise InputError(self.refusal(cases[0]))
        if not overwrite and self.folder.is_dir():
            self._require_own_files(cases, reports)
        try:
            require_folder(self.folder, "the results", "choose another --output")
            require_folder(self.folder / UNFINISHED, "the results", "choose another --output")
        except FolderError as error:
            raise InputError(str(error)) from error
        return reports

    def _require_own_files(self, cases: Sequence[CaseItem], reports: Mapping[str, CaseReport]) -> None:
        ours = {name for report in reports.values() for name in report["outputs"]}
        ours |= {f"{case}.json" for case in reports}
        if reports or (self.folder / UNFINISHED).is_dir():
            ours |= set(_SUMMARIES)
        interrupted = {path.name.rpartition("-")[0] for path in (self.folder / UNFINISHED).glob("*-*")}
        for case in cases:
            if case["case"] not in interrupted:
                for name in (*self.names(case), f"{case['case']}.json"):
                    self._require_ours(name, ours)
            known = reports.get(case["case"])
            if known is None or not known.get("outputs"):
                continue
            source, now = known.get("input", {}).get("path"), os.path.abspath(first_image(case))
            if source != now:
                raise InputError(
                    f"{self.folder} holds the result of {source} as case '{case['case']}', and {now} would replace it; "
                    "choose another --output, or replace it with --overwrite"
                )
        for name in _SUMMARIES:
            self._require_ours(name, ours)
        here = {case["case"] for case in cases}
        for name, report in reports.items():
            if name not in here and report["status"] == "done" and report["labels"] != self.named_labels():
                raise InputError(
                    f"{self.folder} holds results of a model with other classes (case '{name}'); choose another --output"
                )

    def _require_ours(self, name: str, ours: set[str]) -> None:
        if name not in ours and (self.folder / name).exists():
            raise InputError(
                f"{self.folder / name} exists and is not of an earlier prediction; choose another --output, or "
                "replace it with --overwrite"
            )

    def named_labels(self) -> dict[str, str]:
        """Class id as text to name, as JSON holds it."""
        return {str(value): name for value, name in self.labels.items()}

    def _label_file(self) -> dict[str, object]:
        """What labels.json says: the classes, or the regions as a dataset.json says them."""
        if not self.regions:
            return {**self.named_labels()}
        regions = {name: list(values) for name, values in self.regions.items()}
        return {"labels": {self.labels[0]: 0, **regions}}

    def write(
        self,
        case: CaseItem,
        series: Series | None,
        image: MetaTensor | None,
        labels: MetaTensor,
        probabilities: torch.Tensor | None,
        report: CaseReport,
        unwritable: Mapping[str, str] | None = None,
    ) -> CaseReport:
        """Write the files of a case, its report last; returns the report.

        All is made under other names first, so that at any moment a result is whole or not there, and results
        that lie there without a report are known to be of an interrupted run. Where one of several files cannot be
        made, the others are kept, and the report says that the case failed.

        Args:
            series: what the image was read from; None for one that is not DICOM.
            image: as it was read, where a preview is wanted.
            labels: (1, *file shape).
            probabilities: (classes, *file shape), where they are wanted.
            unwritable: formats to leave out, and why.
        """
        started = time.perf_counter()
        with self._placing(case["case"]) as part:
            failures = write_files(
                self, part, case, series, image, labels, probabilities, report, unwritable or {}
            )
            written = [name for name in self.names(case) if (part / name).is_file()]
            sizes = {name: (part / name).stat().st_size for name in written}
            seconds = {**report.get("seconds", {}), "write": round(time.perf_counter() - started, 3)}
            whole: CaseReport = {
                **report,
                "labels": self.named_labels(),
                "outputs": sizes,
                "seconds": seconds,
            }
            if failures:
                whole = {**whole, "status": "failed", **failed(case, failures)}
                whole["error"] += f" Kept: {', '.join(written)}." if written else ""
                earlier = self.earlier_files(case["case"])
                older = {name: size for name, size in earlier.items() if name not in sizes}
                whole["outputs"] = {**older, **sizes}
                if older:
                    whole["notices"] = [*whole.get("notices", ()), f"of an earlier run: {', '.join(older)}"]
            write_json_file(part / "labels.json", self._label_file())
            return write_report(part, whole)

    def write_report(self, report: CaseReport) -> CaseReport:
        """Write only `<case>.json`; returns what was written."""
        with self._placing(report["case"]) as part:
            return write_report(part, report)

    def earlier_files(self, case: str) -> dict[str, int]:
        """Names and sizes of the files that an earlier prediction of a case has left."""
        report = read_report(self.folder / f"{case}.json")
        return report.get("outputs", {}) if report is not None else {}

    @contextlib.contextmanager
    def _placing(self, owner: str) -> Iterator[Path]:
        """A folder whose files take their places when the block ends without an error, its report last.

        It lies in the folder of unfinished files: killed at any moment, nothing half is among the results.

        Raises:
            OutputError: something cannot be written.
        """
        unfinished = self.folder / UNFINISHED
        try:
            unfinished.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(prefix=f"{owner}-", dir=unfinished))
        except OSError as error:
            raise self._not_written(error) from error
        try:
            yield part
            for path in sorted(part.iterdir(), key=lambda path: path.name == f"{owner}.json"):
                put_in_place(path, self.folder / path.name)
        except OSError as error:
            raise self._not_written(error) from error
        finally:
            for old in unfinished.glob("*-*"):
                if old == part or old.name.rpartition("-")[0] == owner:
                    shutil.rmtree(old, ignore_errors=True)

    def _not_written(self, error: OSError) -> OutputError:
        way = {
            errno.ENAMETOOLONG: "give the input a shorter name",
            errno.EINVAL: "give the input a name that the file system there takes",
        }.get(error.errno or 0, way_out(error))
        return OutputError(
            f"the results cannot be written to {self.folder} ({error.strerror or error}); {way}, and run the same"
            " command again."
        )

    def tidy(self) -> None:
        """Remove the folder of unfinished files once it is empty."""
        folder = self.folder / UNFINISHED
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()

    def summarise(self) -> Summary | None:
        """Write the tables over all cases in the folder; returns the summary of their metrics where there are any."""
        reports = read_reports(self.folder)
        done = [report for report in reports.values() if report["status"] == "done"]
        names = list(structures_of(self.labels, self.regions))
        scored: list[CaseMetrics] = [
            {"case": report["case"], **metrics}
            for report in done
            if (metrics := report.get("metrics")) and set(metrics["dice"]) == set(names)
        ]
        summary = summarise(scored, names, intervals=True) if scored else None
        with self._placing("-summary") as part:
            if done:
                write_volumes(
                    part / "volumes.csv", [{"case": r["case"], "volumes": r["volumes"]} for r in done]
                )
            if summary is not None:
                write_csv(part / "metrics.csv", scored, names)
                write_json(part / "metrics.json", scored, names, summary, split="prediction")
            if self.preview:
                from pipelines.inference.gallery import write_gallery

                write_gallery(part / "index.html", reports.values())
        return summary
