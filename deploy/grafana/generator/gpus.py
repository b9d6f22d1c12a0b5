"""What the GPUs do; empty where the servers have none."""

from collections.abc import Sequence

from grafana_foundation_sdk.builders.timeseries import Panel
from grafana_foundation_sdk.models.dashboard import Dashboard

from generator.boards import board
from generator.panels import lines
from generator.queries import SERVERS, total

GPU = "instance, gpu"
NAME = "{{instance}} GPU {{gpu}}"


def dashboard() -> Dashboard:
    """Gives the dashboard."""
    told = "All GPUs that NVIDIA's driver shows to the servers. Empty where there is no driver."
    return board("gpus", "GPUs", told, ["instance"], [("GPUs", _panels())])


def _panels() -> Sequence[Panel]:
    used, whole = (total(f"normserve_gpu_memory_{part}_bytes", SERVERS, GPU) for part in ("used", "total"))
    busy = total("normserve_gpu_utilization_ratio", SERVERS, GPU)
    return [
        lines("Utilisation", "Share of the time in which anything computed.", "percentunit", [(busy, NAME)], most=1),
        lines("Power", "What each draws.", "watt", [(total("normserve_gpu_power_watts", SERVERS, GPU), NAME)]),
        lines("Memory", "That is taken, by anyone.", "bytes", [(used, NAME)]),
        lines("Memory, share", "Of what there is.", "percentunit", [(f"{used} / {whole}", NAME)], most=1),
    ]
