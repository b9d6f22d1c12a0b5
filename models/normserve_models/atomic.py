"""Files and directories that appear whole or not at all.

Everything is written beside its destination under a hidden temporary name, and renamed at the end: a reader sees the
old state or the new one, and a failure leaves nothing behind.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def new_directory(target: Path, *, exist_ok: bool = False) -> Iterator[Path]:
    """Give a temporary directory that becomes `target` when the block ends well.

    Args:
        target: The directory to make. Its parent is made where it lacks, and unmade where the block fails.
        exist_ok: Keep a `target` that another process made meanwhile, and drop what was written here.

    Yields:
        The temporary directory, a sibling of `target`.

    Raises:
        OSError: The directory cannot be written, or `target` is there and holds something.
    """
    lacking = not target.parent.exists()
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:  # made inside, for a signal's exception may come after any step
        temporary.mkdir(parents=True)
        temporary.chmod(0o755)
        yield temporary
        _rename(temporary, target, exist_ok=exist_ok)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if lacking:
            with suppress(OSError):  # it holds something: the target, or another's work
                target.parent.rmdir()


def _rename(source: Path, target: Path, *, exist_ok: bool) -> None:
    try:
        source.rename(target)
    except OSError as error:
        if not target.is_dir():
            raise
        if not exist_ok:
            raise FileExistsError(f"{target} was made by another process meanwhile") from error


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """Give a temporary path that becomes `target` when the block ends well.

    What the block writes beside that path, external data for one, is moved beside `target` first.

    Args:
        target: The file to write, or to replace.

    Yields:
        The temporary path, of the same name, alone in a temporary directory beside `target`.

    Raises:
        OSError: The file cannot be written.
    """
    home = target.absolute().parent
    if not home.is_dir():
        raise FileNotFoundError(f"{target}: there is no directory {home}")
    if target.is_dir():
        raise IsADirectoryError(f"{target}: is a directory, wanted the name of a file")
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=home))
    try:
        yield temporary / target.name
        written = [path for path in temporary.rglob("*") if path.is_file()]
        for path in sorted(written, key=lambda path: path.name == target.name):
            _move(path, home / path.relative_to(temporary))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)
