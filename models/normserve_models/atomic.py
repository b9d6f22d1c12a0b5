"""Files and directories that appear whole or not at all.

Everything is written beside its destination under a hidden temporary name, and renamed at the end: a reader sees the
old state or the new one, and a failure leaves nothing behind.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """Give a temporary directory that becomes `target` when the block ends well.

    A `target` that another process made meanwhile is kept, and what was written here is dropped.

    Args:
        target: The directory to make. Its parents are made where they lack.

    Yields:
        The temporary directory, a sibling of `target`.

    Raises:
        OSError: The directory cannot be written, or `target` is a file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
        _rename_unless_present(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _rename_unless_present(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError:
        # Renaming onto a directory that holds something fails: somebody else was first, and theirs is as good.
        if not target.is_dir():
            raise


@contextmanager
def new_files(*targets: Path) -> Iterator[list[Path]]:
    """Give temporary paths that replace `targets`, in their order, when the block ends well.

    Args:
        *targets: The files to write. The last one should be the one that readers look for first.

    Yields:
        One temporary path for each target, all in one directory that is a sibling of the last target. A target whose
        temporary file was not written is left as it is.

    Raises:
        OSError: A file cannot be written.
    """
    home = targets[-1].absolute().parent
    temporary = Path(tempfile.mkdtemp(prefix=f".{targets[-1].name}.", dir=home))
    try:
        sources = [temporary / target.name for target in targets]
        yield sources
        for source, target in zip(sources, targets, strict=True):
            if source.exists():
                source.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
