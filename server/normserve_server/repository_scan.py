"""What lies in the repositories' folders, and fingerprints that tell whether it changed.

Layout: `<repository>/<model>/<version>/model.onnx`, with an optional `<model>/config.pbtxt`. Versions are positive integers.
Names that begin with a dot are nobody's: write there, and rename when all is written.
"""

import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

MAX_DIGITS = 18  # of a version, which is an int64 in the protocol

Fingerprint: TypeAlias = tuple[tuple[str, int, int], ...]  # name, size in bytes and time of change in nanoseconds, of each file


@dataclass(frozen=True, slots=True)
class Source:
    """What a model can be loaded from.

    Attributes:
        folder: the model's folder.
        versions: by number, the fingerprint of that version's files.
        beside: the fingerprint of what is beside the versions: config.pbtxt, labels, samples for the warm-up.
        override: JSON text that replaces config.pbtxt.
        temporary: whether the folder was made for one load, and each version's part of it goes with what is loaded from it.
        problem: why nothing can be loaded from it.
    """

    folder: Path
    versions: Mapping[int, Hashable] = field(default_factory=dict)
    beside: Fingerprint = ()
    override: str | None = None
    temporary: bool = False
    problem: str = ""

    def fingerprint(self, number: int) -> Hashable:
        """Tells two states of one version's files and config apart."""
        place = None if self.temporary else self.folder
        return place, self.beside, self.override, self.versions.get(number)


def scan(roots: Sequence[Path]) -> dict[str, Source]:
    """Finds all models.

    Args:
        roots: the repositories' folders.

    Returns:
        By the model's name; a model in several repositories has its `problem`, and all versions of all of them.

    Raises:
        OSError: a repository cannot be read.
    """
    found: dict[str, Source] = {}
    for root in roots:
        for folder in sorted(root.iterdir()):
            if _is_model(folder):
                source = _source(folder)
                found[folder.name] = _both(found[folder.name], source) if folder.name in found else source
    return found


def scan_model(roots: Sequence[Path], name: str) -> Source | None:
    """Finds one model; None where no repository has it. As `scan` otherwise."""
    folders = [root / name for root in roots if plain_name(name) and _is_model(root / name)]
    if not folders:
        return None
    source, *others = [_source(folder) for folder in folders]
    for other in others:
        source = _both(source, other)
    return source


def is_version(name: str) -> bool:
    """Whether a folder's name is a version's number."""
    return name.isascii() and name.isdigit() and not name.startswith("0") and len(name) <= MAX_DIGITS


def plain_name(name: str) -> bool:
    """Whether a name is that of one file or folder, and no path out of where it belongs."""
    return bool(name) and name not in {".", ".."} and not set(name) & {"/", "\\", "\0"}


def _is_model(folder: Path) -> bool:
    return not folder.name.startswith(".") and folder.is_dir()


def _source(folder: Path) -> Source:
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        versions = {int(path.name): _of(path, path) for path in entries if is_version(path.name) and path.is_dir()}
        others = [path for path in entries if not is_version(path.name)]
        beside = tuple(one for path in others for one in _of(path, folder))
    except OSError as error:
        return Source(folder, problem=f"{folder}: {error.strerror}")
    return Source(folder, versions, beside)


def _both(one: Source, other: Source) -> Source:
    folders = f"{one.folder.parent} and {other.folder.parent}"
    problem = f"the name stands in two repositories, {folders}; it has to stand for one model"
    return replace(one, versions={**other.versions, **one.versions}, problem=problem)


def _of(path: Path, base: Path) -> Fingerprint:
    """Of a file, or of all files in a folder and the folders in it, by their paths from `base`."""
    if not path.is_dir():
        return _of_file(path, base)
    prints: list[tuple[str, int, int]] = []
    for parent, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            prints += _of_file(Path(parent, name), base)
    return tuple(prints)


def _of_file(path: Path, base: Path) -> Fingerprint:
    try:
        status = path.stat()
    except FileNotFoundError:  # it went while we looked
        return ()
    return () if path.name.startswith(".") else ((str(path.relative_to(base)), status.st_size, status.st_mtime_ns),)
