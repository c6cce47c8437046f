"""CPU, memory, GPU, disk and network of the machine, under MLflow's names, for the journal of a run."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

logger = logging.getLogger(__name__)


class SystemMetrics:
    """Reads the machine's metrics every few seconds in a thread of its own.

    MLflow's monitors measure and name them (`mlflow.system_metrics`); its own feed asks the server before every
    sample whether the run is still open, and ends for good when there is no answer.

    Args:
        tell: takes the metrics of one sample.
        seconds: between samples; MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL wins.
    """

    def __init__(self, tell: Callable[[Mapping[str, float]], None], seconds: float) -> None:
        self._tell = tell
        self._seconds = seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system-metrics", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No sample comes after this."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(5)

    def _run(self) -> None:
        from mlflow.environment_variables import (
            MLFLOW_SYSTEM_METRICS_NODE_ID,
            MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL,
        )

        seconds = MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or self._seconds
        node = MLFLOW_SYSTEM_METRICS_NODE_ID.get()
        prefix = f"system/{node}/" if node else "system/"
        monitors = _monitors()
        while not self._over.wait(seconds):
            values: dict[str, float] = {}
            for monitor in list(monitors):
                try:
                    monitor.collect_metrics()
                    values.update(monitor.aggregate_metrics())
                    monitor.clear_metrics()
                except Exception as error:
                    # A counter that this machine or container does not have.
                    logger.info("no metrics of %s: %s", type(monitor).__name__, error)
                    monitors.remove(monitor)
            if not self._over.is_set():
                self._tell({prefix + name: float(value) for name, value in values.items()})


def _monitors() -> list[Any]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

    found: list[Any] = []
    for kinds in ((CPUMonitor,), (DiskMonitor,), (NetworkMonitor,), (GPUMonitor, ROCMMonitor, TorchMemory)):
        for kind in kinds:
            try:
                found.append(kind())
                break
            except Exception as error:
                logger.debug("%s cannot be used here: %s", kind.__name__, error)
    return found


class TorchMemory:
    """Memory use of the GPUs of this process, read from CUDA if the package for NVML is not installed.

    Only GPUs that the process uses are read: reading another GPU would allocate memory on it.
    """

    def __init__(self) -> None:
        self.torch = sys.modules["torch"]
        if not self.torch.cuda.is_available():
            raise RuntimeError("there is no GPU")
        logger.info("install nvidia-ml-py for the load and the power of the GPU among the system metrics")

    def collect_metrics(self) -> None:
        """Nothing to collect: memory needs no averaging."""

    def aggregate_metrics(self) -> dict[str, float]:
        values = {}
        # The current device of this thread is not that of the training's, and before the first tensor there is none.
        for index in range(self.torch.cuda.device_count()):
            if self.torch.cuda.memory_reserved(index):
                free, total = self.torch.cuda.mem_get_info(index)
                values[f"gpu_{index}_memory_usage_megabytes"] = (total - free) / 1e6
                values[f"gpu_{index}_memory_usage_percentage"] = (total - free) / total * 100
        return values

    def clear_metrics(self) -> None:
        """Nothing is kept."""
