"""`pip install .` alone gives the client, and neither torch nor onnxruntime."""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
import importlib.util, numpy as np, normserve, normserve.cli
from normserve_proto import tensors
assert tensors.decode("x", "BF16", [1], b"..").shape == (1,)
heavy = [name for name in ("torch", "onnx", "onnxruntime", "sklearn", "aiohttp") if importlib.util.find_spec(name)]
assert not heavy, heavy
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("client")
    venv.create(home / "venv", with_pip=True)
    source = home / "source"  # pip builds in the source's folder
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "out", "__pycache__"))
    pip = [str(home / "venv" / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    result = subprocess.run(
        [*pip, "-c", str(ROOT / "constraints.txt"), str(source)], capture_output=True, text=True, check=False
    )
    if result.returncode and "No matching distribution" in result.stderr:
        pytest.skip(f"no package registry is reached: {result.stderr.strip().splitlines()[-1]}")
    assert result.returncode == 0, result.stderr
    return home / "venv" / "bin" / "python"


def test_the_client_comes_alone(python: Path) -> None:
    subprocess.run([python, "-c", CODE], check=True)


@pytest.mark.parametrize("command", ["serve", "fold"])
def test_commands_that_need_more_say_what(python: Path, command: str) -> None:
    arguments = {"serve": ["--repository", "."], "fold": ["a.onnx", "b.onnx"]}[command]
    result = subprocess.run(
        [python.with_name("normserve"), command, *arguments], capture_output=True, text=True, check=False, cwd=sys.prefix
    )
    assert result.returncode == 2
    assert "pip install 'normserve[" in result.stderr
    assert "Traceback" not in result.stderr
