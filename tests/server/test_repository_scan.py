"""What is found on disk, and that whatever changes there is seen."""

import os
from pathlib import Path

import pytest
from normserve_server.repository_scan import plain_name, scan, scan_model


def write(path: Path, content: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("m/1/model.onnx", "m/2/model.onnx", "m/config.pbtxt", "n/10/weights/w.bin"):
        write(tmp_path / "r" / name)
    for name in ("m/01", "m/x", "m/.3", "m/-1", "m/" + "9" * 19, ".hidden/1", "empty"):
        (tmp_path / "r" / name).mkdir(parents=True)
    write(tmp_path / "r" / "file")
    write(tmp_path / "r" / "m" / "4")
    return tmp_path / "r"


def test_models_and_versions(root: Path) -> None:
    found = scan([root])
    assert {name: sorted(source.versions) for name, source in found.items()} == {"m": [1, 2], "n": [10], "empty": []}
    assert scan_model([root], "m") == found["m"]


@pytest.mark.parametrize(
    ("path", "changed"),
    [
        ("m/1/model.onnx", {1}),
        ("m/1/more.bin", {1}),
        ("m/1/deeper/more.bin", {1}),
        ("m/config.pbtxt", {1, 2}),
        ("m/labels.txt", {1, 2}),
        ("m/warmup/x.bin", {1, 2}),
        ("m/.part/x.bin", set()),
        ("m/.config.pbtxt.part", set()),
        ("m/.3/model.onnx", set()),
        ("m/1/.model.onnx.part", set()),
        ("m/1/.part/w.bin", set()),
    ],
)
def test_a_change_is_seen_but_not_what_is_hidden(root: Path, path: str, changed: set[int]) -> None:
    before = scan([root])["m"]
    write(root / path, "longer than before")
    after = scan([root])["m"]
    assert {number for number in (1, 2) if before.fingerprint(number) != after.fingerprint(number)} == changed
    assert (before == after) == (not changed)


def test_a_new_time_alone_is_a_change(root: Path) -> None:
    before = scan([root])["m"]
    os.utime(root / "m/1/model.onnx", ns=(1, 1))
    assert scan([root])["m"].fingerprint(1) != before.fingerprint(1)


def test_a_name_in_two_repositories_is_a_problem(root: Path, tmp_path: Path) -> None:
    write(tmp_path / "s" / "m" / "7" / "model.onnx")
    for source in (scan([root, tmp_path / "s"])["m"], scan_model([root, tmp_path / "s"], "m")):
        assert source is not None
        assert str(root) in source.problem
        assert str(tmp_path / "s") in source.problem
        assert sorted(source.versions) == [1, 2, 7]
    assert not scan([root, tmp_path / "s"])["n"].problem


@pytest.mark.parametrize("name", ["", ".", "..", "../r/m", "m/1", ".hidden", "none", "m\0"])
def test_what_is_no_model(root: Path, name: str) -> None:
    assert scan_model([root], name) is None


def test_links_are_followed(root: Path, tmp_path: Path) -> None:
    """As mounted ConfigMaps and stores of versions have them."""
    store = write(tmp_path / "store" / "a" / "model.onnx").parent
    (root / "m" / "5").symlink_to(store)
    before = scan([root])["m"]
    (store / "model.onnx").write_text("longer than before")
    assert scan([root])["m"].fingerprint(5) != before.fingerprint(5)
    assert 5 in before.versions


def test_a_repository_that_is_not_there_is_no_empty_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="none"):
        scan([tmp_path / "none"])


def test_names() -> None:
    assert plain_name("model.onnx")
    assert not any(map(plain_name, ("", ".", "..", "a/b", "a\\b", "a\0b")))
