"""From the file in the repository to the artifact that is run: folded and proved in a child process, kept in a cache.

torch and onnx do not belong in the serving process, and folding would hold its interpreter lock. The artifact's place in the
cache is named by the content of the version's files, so a change makes a new artifact, and a restart finds the old one.
"""

import asyncio
import hashlib
import importlib.util
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from normserve_server import file_lock
from normserve_server.session import LoadError

PACKAGE = "normserve_models"
MODEL = "model.onnx"
REPORT = "report.json"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Artifact:
    """What is really run.

    Attributes:
        path: the ONNX file.
        report: report.json as folding wrote it; empty where nothing was folded.
    """

    path: Path
    report: Mapping[str, Any] = field(default_factory=dict)


async def prepare(source: Path, cache: Path, engine: str) -> Artifact:
    """Folds and proves a version, or finds that this was done before.

    Args:
        source: the version's ONNX file.
        cache: where artifacts are kept; made if need be.
        engine: names what folds; see `engine`.

    Raises:
        LoadError: the file cannot be read, is not a model, changed meanwhile, or its fold failed its proof.
    """
    place = cache / await asyncio.to_thread(_digest, source, engine)
    if not (place / REPORT).exists():
        try:
            async with file_lock.locked(cache / f".{place.name}.lock"):  # who comes second finds what the first has made
                if not (place / REPORT).exists():
                    await _make(source, place, engine)
        except OSError as error:
            raise LoadError(f"cache {cache}: {error.strerror}") from None
    return Artifact(place / MODEL, json.loads((place / REPORT).read_text()))


def engine() -> str:
    """Names what folds, by its sources: an artifact of another fold is not used.

    Found without importing it, which is for the child process alone; empty where it is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    digest = hashlib.sha256()
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest() if spec else ""


async def _make(source: Path, place: Path, engine: str) -> None:
    """Prepares a version beside its place, and moves it there once it is sure what it was made of."""
    new = place.with_name(f"{place.name}.new")
    try:
        await asyncio.to_thread(_clear, place)  # of what a process left that was killed
        await _run_child(source, new)
        if await asyncio.to_thread(_digest, source, engine) != place.name:
            raise LoadError(f"{source}: it changed while it was prepared")
        new.rename(place)
    finally:
        await asyncio.to_thread(_clear, place)


def _clear(place: Path) -> None:
    """Deletes what is on the way to an artifact."""
    for path in place.parent.iterdir():
        if place.name in path.name and path != place and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


async def _run_child(source: Path, place: Path) -> None:
    command = (sys.executable, "-m", f"{PACKAGE}.prepare", str(source), str(place))
    child = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        _, stderr = await child.communicate()
    except asyncio.CancelledError:  # the server stops while a version is being prepared
        child.terminate()  # it cleans up behind itself
        await child.wait()
        raise
    if child.returncode:
        lines = stderr.decode(errors="replace").strip().splitlines()
        raise LoadError(lines[-1] if lines else f"folding ended with exit code {child.returncode}")


def _digest(source: Path, engine: str) -> str:
    """A name for the content of a version: its model file and whatever lies beside and below it, such as external weights."""
    digest = hashlib.sha256(engine.encode())
    try:
        for path in (source, *sorted(p for p in source.parent.rglob("*") if p.is_file() and p != source)):
            digest.update(f"\0{path.relative_to(source.parent)}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
    except OSError as error:
        raise LoadError(f"{source}: {error.strerror}") from None
    return digest.hexdigest()
