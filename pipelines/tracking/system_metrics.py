"""Samples the load of CPU, memory, GPU, disk and network in the background, under MLflow's names."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

logger = logging.getLogger(__name__)


class SystemMetrics:
    """Samples system metrics every few seconds in a background thread.

    The metrics come from MLflow's monitors (`mlflow.system_metrics`). MLflow's own thread is not used: before every
    sample it asks the server whether the run is still open, and it ends if there is no answer.

    Args:
        log: called with the metrics of each sample, by name.
        seconds: time between samples; MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL overrides it.
    """

    def __init__(self, log: Callable[[Mapping[str, float]], None], seconds: float) -> None:
        self._log = log
        self._seconds = seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system-metrics", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; no sample is logged afterwards."""
        self._stopped.set()
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
        while not self._stopped.wait(seconds):
            values: dict[str, float] = {}
            for monitor in list(monitors):
                try:
                    monitor.collect_metrics()
                    values.update(monitor.aggregate_metrics())
                    monitor.clear_metrics()
                except Exception as error:
                    # This machine or container does not have the counter.
                    logger.info("system metrics of %s are not available: %s", type(monitor).__name__, error)
                    monitors.remove(monitor)
            if not self._stopped.is_set():
                self._log({prefix + name: float(value) for name, value in values.items()})


def _monitors() -> list[Any]:
    """MLflow's monitors that work on this machine; of several for the GPU only the first that works."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

    found: list[Any] = []
    for alternatives in (
        (CPUMonitor,),
        (DiskMonitor,),
        (NetworkMonitor,),
        (GPUMonitor, ROCMMonitor, TorchMemory),
    ):
        for monitor in alternatives:
            try:
                found.append(monitor())
                break
            except Exception as error:
                logger.debug("%s cannot be used here: %s", monitor.__name__, error)
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
        """Do nothing: memory is not averaged over several readings."""

    def aggregate_metrics(self) -> dict[str, float]:
        """The present memory use: in megabytes and as a percentage, by MLflow's name of the metric."""
        values = {}
        # All GPUs are checked, because the current device of this thread is not the one of the training's thread.
        for index in range(self.torch.cuda.device_count()):
            if self.torch.cuda.memory_reserved(index):
                free, total = self.torch.cuda.mem_get_info(index)
                values[f"gpu_{index}_memory_usage_megabytes"] = (total - free) / 1e6
                values[f"gpu_{index}_memory_usage_percentage"] = (total - free) / total * 100
        return values

    def clear_metrics(self) -> None:
        """Do nothing: no readings are stored."""
