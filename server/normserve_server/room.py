"""Whether a model can fit on a device at all, as far as its files tell before anything is tried."""

from pathlib import Path

from normserve_server.accelerators.interface import Accelerator
from normserve_server.errors import LoadError


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
    if wanted > free:
        raise LoadError(f"its weights take {wanted} bytes, and there is no room for them")


def _may_be_weights(path: Path) -> bool:
    return path.is_file() and path.suffix not in {".onnx", ".json"}
