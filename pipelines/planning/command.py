"""What `python -m pipelines plan` does: a bundle's config, a dataset and this machine to a plan, a table and a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from pipelines.config.executed import ExecutedConfig
from pipelines.config.knobs import AUTO
from pipelines.planning.knobs import PLANNED
from pipelines.planning.page import write_plan_page
from pipelines.planning.plan_file import PlanError, write_plan
from pipelines.planning.planned_config import overlay_of, plan_for, wish_of
from pipelines.planning.records import Plan
from pipelines.planning.table import lines
from pipelines.utils.cores import use_cores


def plan_dataset(bundle: Path, dataset: Path, given: Mapping[str, Any], output: Path, page: Path) -> Plan:
    """Plan a training, print the plan and write it.

    Args:
        bundle: config of the training.
        dataset: folder of the dataset.
        given: values of the config's ids that win.
        output: where the plan is written, as a config; the settings among what was given are in it.
        page: where the page is written.

    Raises:
        PlanError: no plan fits what was given, or the config has no id that can be planned.
        DatasetError: the dataset cannot be used.
    """
    use_cores()
    parser = ConfigParser()
    parser.read_config(str(bundle))
    raw = parser.get()
    unknown = [name for name in given if name not in raw]
    if unknown:
        raise PlanError(f"{bundle} has no {unknown[0]}; leave it out")
    raw |= {"dataset_dir": str(dataset), **given}
    parser.ref_resolver.reset()
    config = ExecutedConfig(parser)
    wish = wish_of(config)
    if not wish.open:
        raise PlanError(
            f'nothing in {bundle} is left to a plan; write "{AUTO}" for any of {", ".join(PLANNED)}'
        )
    data = parser.get_parsed_content("data")
    plan, found = plan_for(config, wish, data, Path(config.resolved("store_dir")))
    for line in lines(plan):
        print(line)
    # What was given belongs to it: without, a training with this overlay would plan that knob in its own way.
    kept = {name: value for name, value in wish.given.items() if name in given}
    write_plan(output, overlay_of(config, wish, data, plan) | kept)
    write_plan_page(page, plan, found)
    print(f"{output} is the plan as a config, {page} shows it with the dataset")
    return plan
