"""Folding in a real child process, and the cache of what it made."""

import asyncio
import os
import resource
import shutil
from pathlib import Path

import pytest
from normserve_server import preparation
from normserve_server.session import LoadError


@pytest.fixture
def source(digits_repository: Path, tmp_path: Path) -> Path:
    shutil.copytree(digits_repository / "digits" / "1", tmp_path / "1")
    return tmp_path / "1" / "model.onnx"


async def test_what_was_prepared_once_is_found_again(source: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    artifact = await preparation.prepare(source, cache, "engine")
    assert artifact.report["folded"] >= 6
    written = artifact.path.stat().st_mtime_ns
    again = await preparation.prepare(source, cache, "engine")
    assert again.path == artifact.path
    assert again.path.stat().st_mtime_ns == written
    assert len(list(cache.iterdir())) == 1


async def test_another_content_another_engine_or_a_file_beside_it_is_another_artifact(source: Path) -> None:
    names = {preparation._digest(source, "engine"), preparation._digest(source, "other")}
    (source.parent / "weights.bin").write_bytes(b"1")
    names.add(preparation._digest(source, "engine"))
    (source.parent / "weights.bin").write_bytes(b"2")
    names.add(preparation._digest(source, "engine"))
    (source.parent / "weights").mkdir()
    (source.parent / "weights" / "w.bin").write_bytes(b"2")
    names.add(preparation._digest(source, "engine"))
    assert len(names) == 5


async def test_a_bad_file_is_one_line_and_leaves_nothing(source: Path, tmp_path: Path) -> None:
    os.truncate(source, 1000)
    with pytest.raises(LoadError, match="not an ONNX file, or truncated") as refusal:
        await preparation.prepare(source, tmp_path / "cache", "engine")
    assert "\n" not in str(refusal.value)
    assert not list((tmp_path / "cache").iterdir())


async def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    with pytest.raises(LoadError, match=r"1/model\.onnx: No such file"):
        await preparation.prepare(tmp_path / "1" / "model.onnx", tmp_path / "cache", "engine")


async def test_a_stop_while_preparing_ends_the_child(source: Path, tmp_path: Path) -> None:
    task = asyncio.create_task(preparation.prepare(source, tmp_path / "cache", "engine"))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not list((tmp_path / "cache").iterdir())


async def test_one_prepares_and_the_others_find_it(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    children = []
    run = preparation._run_child

    async def counted(*arguments: Path) -> None:
        children.append(arguments)
        await run(*arguments)

    monkeypatch.setattr(preparation, "_run_child", counted)
    cache = tmp_path / "cache"
    made = await asyncio.gather(*(preparation.prepare(source, cache, "engine") for _ in range(4)))
    assert len({artifact.path for artifact in made}) == len(children) == 1
    assert list(cache.iterdir()) == [made[0].path.parent]


async def test_what_a_killed_process_left_is_swept_and_a_full_disk_leaves_nothing(source: Path, tmp_path: Path) -> None:
    cache, digest = tmp_path / "cache", preparation._digest(source, "engine")
    for name in (f"{digest}.new", f".{digest}.new.0123", f".{digest}.new.0123/deeper"):
        (cache / name).mkdir(parents=True)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))  # as good as full, for the child inherits it
    try:
        with pytest.raises(LoadError, match="File too large"):
            await preparation.prepare(source, cache, "engine")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(cache.iterdir())
    artifact = await preparation.prepare(source, cache, "engine")
    assert list(cache.iterdir()) == [artifact.path.parent]


async def test_what_changes_while_it_is_prepared_is_not_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or another content would be found under the name of this one."""

    def make(source: Path, place: Path) -> None:
        place.mkdir(parents=True)
        (place / preparation.REPORT).write_text("{}")
        source.write_bytes(b"another")

    async def child(source: Path, place: Path) -> None:
        make(source, place)

    monkeypatch.setattr(preparation, "_run_child", child)
    with pytest.raises(LoadError, match="changed while it was prepared"):
        await preparation.prepare(source, tmp_path / "cache", "engine")
    assert not list((tmp_path / "cache").iterdir())


async def test_a_cache_that_cannot_be_written_is_named(source: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(LoadError, match=r"cache .*cache: (File exists|Not a directory)"):
        await preparation.prepare(source, tmp_path / "cache", "engine")


def test_the_engine_is_named_by_its_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All of them, wherever they stand in the package: an artifact of other rules must not be served."""
    assert len(preparation.engine()) == 64
    (tmp_path / "some_fold" / "rules").mkdir(parents=True)
    (tmp_path / "some_fold" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(preparation, "PACKAGE", "some_fold")
    names = {preparation.engine()}
    for source in ("fold.py", "rules/linear.py"):
        (tmp_path / "some_fold" / source).write_text("changed = True")
        names.add(preparation.engine())
    assert len(names) == 3
    monkeypatch.setattr(preparation, "PACKAGE", "no_such_package")
    assert preparation.engine() == ""
