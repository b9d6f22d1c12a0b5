"""Whole or not at all."""

import pytest
from normserve_models import atomic


def fail_after_writing(path) -> None:
    path.write_text("half")
    raise RuntimeError


def test_a_directory_appears_whole(tmp_path) -> None:
    target = tmp_path / "model" / "1"
    with atomic.new_directory(target) as directory:
        (directory / "file").write_text("content")
        assert not target.exists()
    assert (target / "file").read_text() == "content"
    assert [path.name for path in target.parent.iterdir()] == ["1"]


def test_a_directory_that_fails_leaves_nothing(tmp_path) -> None:
    with pytest.raises(RuntimeError), atomic.new_directory(tmp_path / "model" / "1") as directory:
        fail_after_writing(directory / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("exist_ok", [False, True])
def test_a_directory_that_another_made_meanwhile_is_kept(tmp_path, exist_ok) -> None:
    target = tmp_path / "1"

    def race() -> None:
        with atomic.new_directory(target, exist_ok=exist_ok) as directory:
            (directory / "file").write_text("ours")
            target.mkdir()
            (target / "file").write_text("theirs")

    if exist_ok:
        race()
    else:
        with pytest.raises(FileExistsError, match="another process"):
            race()
    assert (target / "file").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_file_is_replaced_with_what_lies_beside_it(tmp_path) -> None:
    target = tmp_path / "model.onnx"
    target.write_text("old")
    with atomic.new_file(target) as temporary:
        temporary.write_text("new")
        temporary.with_name("data").write_text("weights")
        assert target.read_text() == "old"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"model.onnx": "new", "data": "weights"}


def test_a_file_that_fails_leaves_the_old_one(tmp_path) -> None:
    target = tmp_path / "model.onnx"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic.new_file(target) as temporary:
        fail_after_writing(temporary)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"model.onnx": "old"}
