"""The output folder of a prediction: files of each case, and tables over all cases."""

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
    estimates_of,
    fingerprint,
    read_report,
    read_reports,
    write_json_file,
    write_report,
)
from pipelines.metrics.result_files import write_csv, write_json
from pipelines.metrics.summary import CaseMetrics, Summary, summarise
from pipelines.metrics.volumes import write_volumes
from pipelines.utils.anonymity import is_anonymous
from transforms.dicom.series import Series
from transforms.errors import SettingError, UserError
from transforms.io.label_tables import LABEL_TABLES, write_label_tables
from transforms.label_values import structures_of
from transforms.utils.files import FolderError, put_in_place, require_folder, way_out

UNFINISHED = ".unfinished"
"""Folder in the output folder in which files are written before they are moved to their final place."""
_SUMMARIES = (*LABEL_TABLES, "labels.json", "volumes.csv", "metrics.csv", "metrics.json", "index.html")


class OutputError(UserError, OSError):
    """Results cannot be written; the message names the folder, the reason and what to do."""


class Outputs(OutputPlan):
    """The files of a prediction in one folder.

    Args:
        folder: output folder.
        labels: names of the classes by class id, background included.
        formats: any of "nii.gz" (a PNG for a 2D picture), "seg.nrrd" (3D Slicer), "seg" (DICOM SEG), "rtstruct".
        probabilities: also write the probabilities of all classes.
        preview: also write a picture of each case, and an `index.html` with all of them.
        ct: whether the images are in HU.
        regions: name to the class ids that make it up; if there are any, volumes and DICOM files are of these.

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
        """Check before the prediction that results can be written and that no file of the user is replaced.

        Args:
            cases: the cases to predict.
            overwrite: whether existing files may be replaced.

        Returns:
            The reports that are already in the folder, by case.

        Raises:
            InputError: a file would be replaced, a format is not possible, or the folder is not writable.
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
        if cases and all(self.refusal(case) for case in cases):
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
            if is_anonymous():
                self._require_same(known, case)
            elif source != now:
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

    def _require_same(self, known: CaseReport, case: CaseItem) -> None:
        """Numbers say nothing of which image it is: only the digest of its files does."""
        if known["input"].get("digest") != fingerprint(image_paths(case), self.folder)["digest"]:
            raise SettingError(
                f"{self.folder} holds the result of another image as {case['case']}, or the image has changed; choose"
                " another --output, or replace it with --overwrite"
            )

    def _require_ours(self, name: str, ours: set[str]) -> None:
        if name not in ours and (self.folder / name).exists():
            raise InputError(
                f"{self.folder / name} exists and was not written by an earlier prediction; choose another --output, "
                "or replace the file with --overwrite"
            )

    def named_labels(self) -> dict[str, str]:
        """Names of the classes by class id, as text for JSON."""
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

        The files are first written to another folder, so that an output file is always complete, and files without a
        report are known to come from an interrupted run. If one of several files cannot be written, the others are
        kept, and the report lists the case as failed.

        Args:
            case: the case.
            series: the DICOM series of the image; None if the image is not DICOM.
            image: the original image, needed for a preview.
            labels: label map (1, *file shape).
            probabilities: probability map (classes, *file shape), if it is to be written.
            report: report of the case.
            unwritable: formats to leave out, with the reasons.
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
            if "nii.gz" in self.formats:
                write_label_tables(part, self.labels)
            return write_report(part, whole)

    def write_report(self, report: CaseReport) -> CaseReport:
        """Write only `<case>.json` and return its full content."""
        with self._placing(report["case"]) as part:
            return write_report(part, report)

    def earlier_files(self, case: str) -> dict[str, int]:
        """Names and sizes in bytes of the files that an earlier prediction of a case wrote."""
        report = read_report(self.folder / f"{case}.json")
        return report.get("outputs", {}) if report is not None else {}

    @contextlib.contextmanager
    def _placing(self, owner: str) -> Iterator[Path]:
        """A temporary folder whose files are moved to the output folder if the block raises no error, the report last.

        It is in the folder of unfinished files, so that no incomplete file is among the results if the process is
        killed.

        Raises:
            OutputError: a file cannot be written.
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
            errno.EINVAL: "give the input a name that this file system allows",
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
        """Write the tables over all cases in the folder; returns the summary of their metrics, None without metrics."""
        reports = read_reports(self.folder)
        done = [report for report in reports.values() if report["status"] == "done"]
        names = list(structures_of(self.labels, self.regions))
        scored: list[CaseMetrics] = [
            {"case": report["case"], **metrics, **estimates_of(report)}
            for report in done
            if (metrics := report.get("metrics")) and set(metrics["dice"]) == set(names)
        ]
        summary = summarise(scored, names, intervals=True) if scored else None
        with self._placing("-summary") as part:
            if done:
                write_volumes(
                    part / "volumes.csv",
                    [{"case": r["case"], "volumes": r["volumes"], **estimates_of(r)} for r in done],
                )
            if summary is not None:
                write_csv(part / "metrics.csv", scored, names)
                write_json(part / "metrics.json", scored, names, summary, split="prediction")
            if self.preview:
                from pipelines.inference.gallery import write_gallery

                write_gallery(part / "index.html", reports.values())
        return summary
