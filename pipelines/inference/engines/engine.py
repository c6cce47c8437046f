"""What computes the windows of a prediction: torch itself, compiled or not, or an exported network."""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from pipelines.inference.engines import onnx, openvino
from pipelines.inference.engines.cache import Cache, format_for_engine, given_export
from pipelines.inference.engines.export import Check, compared
from pipelines.inference.engines.formats import EngineError
from pipelines.inference.ensemble import Ensemble
from pipelines.inference.precision import AUTO, autocast
from pipelines.inference.trained_model import TrainedModel
from pipelines.utils.modules import compile_regions
from transforms.errors import SettingError

__all__ = ["ENGINES", "Engine", "Work"]

logger = logging.getLogger(__name__)

EAGER, COMPILE = "eager", "compile"
EXPORTED = {"openvino": openvino, "onnx": onnx}
"""Engines that run an exported network, the faster one first."""
ENGINES = (EAGER, COMPILE, *EXPORTED, AUTO)
WORTHWHILE = 0.9
"""An exported network is chosen only if a window takes less than this fraction of the time of torch."""
SAVED = 0.4
"""The fraction of the time that an exported network can save at best, measured in docs/inference.md, to weigh its costs."""
EXPORT_SECONDS = {"openvino": 15.0, "onnx": 45.0}
LOAD_SECONDS = 3.0
ROUNDS = 4
"""Each engine computes a window so often; the first time is a warm-up, of the others the shortest counts."""


class Work(NamedTuple):
    """What a prediction asks of an engine.

    Attributes:
        window: one real window (1, C, *window), float32.
        windows: how many there are in all cases, mirrored ones counted, about.
        device: device of the network.
        asked: precision as configured.
        precision: precision that "auto" was resolved to.
    """

    window: torch.Tensor
    windows: int
    device: torch.device
    asked: str
    precision: str


class Engine:
    """Runs the network of a trained model with the engine of a given name, decided at the first case.

    Args:
        name: "eager" is torch; "compile" is torch.compile; "onnx" and "openvino" export the network to a folder beside
            the model and run it with ONNX Runtime or OpenVINO on the CPU; "auto" takes the one of eager, onnx and
            openvino that is fastest here, measured with a window of the first case where there is enough work to pay
            for it. Or the path of an export (`.onnx`, or the folder of OpenVINO).
        trained: the model.

    Attributes:
        used: what was taken, one of `ENGINES`, for reports; None before the first case.
        network: which computes the windows instead of that of the model; None before the first case.
        precision: in which that computes, "int8" where convolutions have 8 bits; None before the first case.

    Raises:
        SettingError: there is no such engine.
        EngineError: the path is no export that predictions can run.
    """

    def __init__(self, name: str, trained: TrainedModel) -> None:
        self.name, self.trained = str(name), trained
        self.given: Path | None = None
        if self.name not in ENGINES:
            self.given = Path(self.name)
            if not self.given.exists():
                raise SettingError(
                    f"there is no engine and no exported network '{name}'; choose one of {', '.join(ENGINES)}"
                )
            if isinstance(trained.network, Ensemble):
                raise SettingError(
                    f"{name} is one network, but the model is an ensemble; use --engine openvino"
                )
            format_for_engine(self.given)
        self.used: str | None = None
        self.precision: str | None = None
        self.network: torch.nn.Module | None = None
        self._kept: list[Cache] = []

    def network_for(self, network: torch.nn.Module, work: Work) -> torch.nn.Module:
        """The network that computes the windows of a case instead of `network`.

        Raises:
            SettingError: the engine cannot compute on the device or in the precision that were asked for.
            EngineError: the network cannot be exported, or the export computes something else.
        """
        if self.network is not None:
            return self.network
        if self.name == EAGER:
            return self._decided(network, EAGER, work.precision)
        if self.name == COMPILE:
            regional = compile_regions(network)
            compiled = network if regional else torch.compile(network, dynamic=False)
            return self._decided(compiled, COMPILE, work.precision)  # type: ignore[arg-type]
        if self.name == AUTO:
            return self._fastest(network, work)
        if self.given is not None:
            name = format_for_engine(self.given)
            exported, precision = given_export(self.given, network, self.trained, _precision(name, work))
            return self._decided(exported, name, precision)
        precision = _precision(self.name, work)
        return self._decided(self._exported(self.name, network, work.window, precision), self.name, precision)

    def _decided(self, network: torch.nn.Module, name: str, precision: str) -> torch.nn.Module:
        self.network, self.used, self.precision = network, name, precision
        return network

    def _exported(
        self, name: str, network: torch.nn.Module, window: torch.Tensor, precision: str
    ) -> torch.nn.Module:
        """The exported network, or an ensemble of exported networks, after a comparison on the window."""
        caches = self._caches(name, network)
        self._kept += caches
        loaded = [cache.load(window, precision) for cache in caches]
        exported = Ensemble(loaded).eval() if isinstance(network, Ensemble) else loaded[0]
        check = self._compared(network, exported, window, precision)
        if not check.close(precision):
            raise EngineError(
                f"the export {caches[0].path} does not compute what the model computes: its logits differ by up to "
                f"{check.difference:.3g}, the largest is {check.largest:.3g}; remove it, or use --engine eager"
            )
        return exported

    def _caches(self, name: str, network: torch.nn.Module) -> list[Cache]:
        networks = list(network.networks) if isinstance(network, Ensemble) else [network]
        members = self.trained.members
        return [Cache(member, each, name) for member, each in zip(members, networks, strict=True)]

    def _compared(
        self, network: torch.nn.Module, exported: torch.nn.Module, window: torch.Tensor, precision: str
    ) -> Check:
        with autocast("cpu", precision):
            return compared(network, exported, [window])

    def _fastest(self, network: torch.nn.Module, work: Work) -> torch.nn.Module:
        """The fastest engine, or torch where there is too little work to pay for finding out."""
        if work.device.type != "cpu":
            logger.info("engine: eager, since the others compute on a CPU")
            return self._decided(network, EAGER, work.precision)
        installed = [name for name in EXPORTED if importlib.util.find_spec(EXPORTED[name].RUNTIME)]
        if not installed:
            logger.info("engine: eager, since none of %s is installed", " and ".join(EXPORTED))
            return self._decided(network, EAGER, work.precision)
        first = _seconds(network, work.window, work.precision)
        costs = {name: self._cost(name, network) for name in installed}
        tried = [name for name in installed if first * work.windows * SAVED > costs[name]]
        if not tried:
            logger.info(
                "engine: eager, since %.0f s of work do not pay for trying %s",
                first * work.windows,
                " and ".join(installed),
            )
            return self._decided(network, EAGER, work.precision)
        ways, notes = {EAGER: (network, work.precision)}, []
        for name in tried:
            try:
                precision = _precision(name, work)
                ways[name] = self._exported(name, network, work.window, precision), precision
            except (EngineError, SettingError) as error:
                notes.append(f"{name} is left out: {error}")
        # In turn: what else the machine does changes from second to second.
        rounds = [
            {name: _seconds(way[0], work.window, way[1]) for name, way in ways.items()} for _ in range(ROUNDS)
        ]
        times = {name: min(each[name] for each in rounds[1:]) for name in ways}
        best = min(times, key=lambda name: times[name] * (WORTHWHILE if name == EAGER else 1))
        told = ", ".join(f"{seconds:.3g} s with {name}" for name, seconds in times.items())
        logger.info("engine: %s, since a window takes %s", best, "; ".join([told, *notes]))
        return self._decided(ways[best][0], best, ways[best][1])

    def _cost(self, name: str, network: torch.nn.Module) -> float:
        """Seconds until an exported network can be timed, about."""
        caches = self._caches(name, network)
        return sum(LOAD_SECONDS if cache.is_there() else EXPORT_SECONDS[name] for cache in caches)


def _precision(name: str, work: Work) -> str:
    """The precision in which an engine computes what was asked for.

    Raises:
        SettingError: it cannot, or not on this device.
    """
    if work.device.type != "cpu":
        raise SettingError(
            f"the engine {name} computes on a CPU; use --device cpu, or --engine eager or compile"
        )
    known: Sequence[str] = EXPORTED[name].PRECISIONS
    if work.precision in known:
        return work.precision
    if work.asked == AUTO:
        return known[0]
    raise SettingError(
        f"the engine {name} computes in {' or '.join(known)}, not in {work.asked}; use --precision auto, or --engine eager"
    )


def _seconds(network: torch.nn.Module, window: torch.Tensor, precision: str) -> float:
    """Of one pass over a window."""
    with torch.inference_mode(), autocast("cpu", precision):
        started = time.perf_counter()
        network(window)
        return time.perf_counter() - started
