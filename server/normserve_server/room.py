"""Whether a model fits on a device: as far as its files tell before anything is tried, and what is said where it does not."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from normserve_server.accelerators.interface import Accelerator
from normserve_server.errors import LoadError, ServiceError


def check(file: Path, accelerator: Accelerator, limit_bytes: int) -> None:
    """Refuses a model whose weights alone are too large; what its runs need besides shows when it is warmed up.

    Args:
        file: the ONNX file; other files beside it are taken for its weights, unless they are ONNX files too.
        accelerator: where it is to run.
        limit_bytes: what a session may take; 0 for no limit.

    Raises:
        LoadError: there is no room; the text has the numbers.
    """
    if not accelerator.apart:
        return
    wanted = sum(path.stat().st_size for path in file.parent.rglob("*") if path == file or _may_be_weights(path))
    free, _ = accelerator.free_and_total_bytes()
    if limit_bytes and wanted > limit_bytes:
        raise LoadError(f"its weights take {wanted} bytes, and gpu_mem_limit is {limit_bytes}")
    if wanted > free:  # what was freed and kept counts as taken
        accelerator.give_back()
        free, _ = accelerator.free_and_total_bytes()
    if wanted > free:
        raise LoadError(f"its weights take {wanted} bytes, and there is no room for them")


@contextlib.contextmanager
def told(accelerator: Accelerator) -> Iterator[None]:
    """Makes a failed warm-up a failed load; with the figures, where the device has memory of its own."""
    try:
        yield
    except (LoadError, ServiceError) as error:
        reason = str(error) if isinstance(error, LoadError) else f"its first inference failed: {error}"
        raise LoadError(reason + _figures(accelerator)) from error


def _figures(accelerator: Accelerator) -> str:
    if not accelerator.apart:
        return ""
    try:
        free, total = accelerator.free_and_total_bytes()
    except Exception as error:  # noqa: BLE001 - a device that is broken tells nothing
        return f" ({accelerator.device} does not tell of its memory: {error})"
    return f" ({accelerator.device} has {free} of {total} bytes free)"


def _may_be_weights(path: Path) -> bool:
    return path.is_file() and path.suffix not in {".onnx", ".json"}
