"""The Python in the pages for callers runs, as it stands, against a real server."""

import re
from pathlib import Path

import pytest
from normserve import Client
from normserve.testing import running_server

ROOT = Path(__file__).parents[2]


def run(page, server, repository):
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    code = re.sub(r"(localhost|127\.0\.0\.1):8001", server.grpc_address, "\n".join(blocks))
    exec(compile(code.replace("models/repository", str(repository)), page, "exec"), {})
    return len(blocks)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    with running_server(folder, arguments=("--cache-dir", str(folder), "--state", str(folder / "state.db"))) as server:
        yield server


def test_readme(digits_server, digits_repository):
    pytest.importorskip("tritonclient.grpc", reason="the page shows Triton's client too")
    assert run("README.md", digits_server, digits_repository) == 3


def test_client(digits_server, digits_repository, capsys):
    assert run("docs/client.md", digits_server, digits_repository) >= 7
    printed = capsys.readouterr().out
    assert "image FP32 (-1, 1, 8, 8)" in printed
    assert "input 'image' has shape" in printed


def test_normalization(server, digits_repository, capsys):
    assert run("docs/normalization.md", server, digits_repository) == 6
    printed = capsys.readouterr().out
    assert "mean [5.1 4.9" in printed
    assert "obs RunningNormLayer(shape=(17,), eps=1e-08, clip=10.0) True 2" in printed
    assert "has etag" in printed
    with Client(server.grpc_address) as client:
        assert [info.name for info in client.normalizers()] == ["features", "obs"]
        assert client.normalizer("features").get().sequence > 0


def test_every_operator_and_no_other_is_in_the_table():
    text = (ROOT / "docs" / "normalization.md").read_text()
    operators = re.findall(r"^\| `(\w+)\(input", text, re.MULTILINE)
    assert sorted(operators) == sorted(
        ["batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm", "local_response_norm", "normalize"]
    )
    for operator in operators:
        assert text.count(f"client.{operator}(x") >= 1
