"""What a load may bring along, and that nothing of it lands where it should not."""

import tempfile
from pathlib import Path

import pytest
from normserve_proto import open_inference_pb2 as pb
from normserve_server.errors import InvalidRequestError
from normserve_server.load_request import LoadRequest, parse, written


def message(model: str = "m", **parameters: str | bytes | bool) -> pb.RepositoryModelLoadRequest:
    made = pb.RepositoryModelLoadRequest(model_name=model, repository_name="r")
    kinds = {str: "string_param", bytes: "bytes_param", bool: "bool_param"}
    for key, value in parameters.items():
        setattr(made.parameters[key], kinds[type(value)], value)
    return made


def test_what_is_brought_along() -> None:
    parameters = {"config": "{}", "file:1/model.onnx": b"a", "file:12/w.bin": b"b", "file:1/w": b""}
    assert parse(message()) == LoadRequest("m", "r")
    assert parse(message(**parameters)) == LoadRequest("m", "r", "{}", {1: {"model.onnx": b"a", "w": b""}, 12: {"w.bin": b"b"}})


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"nonsense": "x"}, "parameter 'nonsense' of a load is unknown"),
        ({"config": b"{}"}, "parameter 'config' of a load is a string_param, got bytes_param"),
        ({"config": "{}", "file:1/model.onnx": "x"}, "is a bytes_param, got string_param"),
        ({"file:1/model.onnx": b"x"}, "files of a model need its parameter 'config'"),
        *(
            ({"config": "{}", key: b"x"}, "a version's number and a plain file name")
            for key in (
                "file:",
                "file:model.onnx",
                "file:1/",
                "file:0/model.onnx",
                "file:01/model.onnx",
                "file:-1/model.onnx",
                "file:../model.onnx",
                "file:1/../model.onnx",
                "file:1/..",
                "file:1/deeper/model.onnx",
                "file:1//etc/passwd",
                "file:/1/model.onnx",
                "file:1/a\0b",
                "file:1\n/model.onnx",
            )
        ),
    ],
)
def test_what_is_wrong_is_named(parameters: dict[str, str | bytes], text: str) -> None:
    with pytest.raises(InvalidRequestError, match=text):
        parse(message(**parameters))


@pytest.mark.parametrize("model", ["", ".", "..", "a/b", "../m", ".hidden"])
def test_a_model_is_a_folder(model: str) -> None:
    with pytest.raises(InvalidRequestError, match="model_name is a folder's name"):
        parse(message(model))


def test_files_are_laid_out_like_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    source = written(LoadRequest("m", "", "{}", {2: {"model.onnx": b"a", "w.bin": b"b"}}))
    assert source.folder.name == "m"
    assert {path.name: path.read_bytes() for path in (source.folder / "2").iterdir()} == {"model.onnx": b"a", "w.bin": b"b"}
    assert source.temporary
    again = written(LoadRequest("m", "", "{}", {2: {"model.onnx": b"a", "w.bin": b"b"}}))
    other = written(LoadRequest("m", "", "{}", {2: {"model.onnx": b"a", "w.bin": b"c"}}))
    assert source.fingerprint(2) == again.fingerprint(2) != other.fingerprint(2)


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(OSError, match="too long"):
        written(LoadRequest("m", "", "{}", {1: {"a": b"a", "x" * 300: b"x"}}))
    assert not list(tmp_path.iterdir())
