"""design.md's table of who may import whom, each import in a process of its own."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "sklearn", "scipy"}
SERVER_ONLY = {
    "aiohttp",
    "psycopg",
    "prometheus_client",
    "pydantic",
    "pydantic_settings",
    "sqlalchemy",
    "structlog",
    "uvloop",
} | {"opentelemetry"}

FORBIDDEN = {
    "normserve_proto": HEAVY | SERVER_ONLY | {"normserve", "normserve_models", "normserve_server"},
    "normserve_proto.tensors": HEAVY | SERVER_ONLY | {"normserve", "normserve_models", "normserve_server"},
    "normserve": HEAVY | SERVER_ONLY | {"normserve_models", "normserve_server"},
    "normserve.aio": HEAVY | SERVER_ONLY | {"normserve_models", "normserve_server"},
    "normserve.cli": HEAVY | SERVER_ONLY | {"normserve_models", "normserve_server"},
    "normserve.testing": HEAVY | SERVER_ONLY | {"normserve_models", "normserve_server"},
    "normserve_models.fold": SERVER_ONLY | {"grpc", "normserve", "normserve_server", "normserve_proto"},
    "normserve_models.export": SERVER_ONLY | {"grpc", "normserve", "normserve_server", "normserve_proto"},
    "normserve_models.prepare": SERVER_ONLY | {"grpc", "normserve", "normserve_server", "normserve_proto"},
    "normserve_models.verify": SERVER_ONLY | {"grpc", "normserve", "normserve_server", "normserve_proto"},
    "normserve_server.session": {"torch", "onnx", "onnx_ir", "normserve", "normserve_models"},
    "normserve_server.opening": {"torch", "onnx", "onnx_ir", "normserve", "normserve_models"},
    "normserve_server.repository": {"torch", "onnx", "onnx_ir", "normserve", "normserve_models"},
    "normserve_server.app": {"opentelemetry", "onnx", "onnx_ir", "normserve", "normserve_models"},
    "normserve_server.processes.supervisor": HEAVY | {"normserve", "normserve_models"},
    "normserve_server.settings": HEAVY | {"normserve", "normserve_models", "grpc"},
}


@pytest.mark.parametrize("module", FORBIDDEN)
def test_a_module_brings_in_only_what_its_layer_may(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert module.partition(".")[0] in loaded
    assert not FORBIDDEN[module] & set(loaded)


def test_only_the_operators_and_gpus_know_torch() -> None:
    from pathlib import Path

    import normserve_server

    files = Path(normserve_server.__file__).parent.rglob("*.py")
    knowing = {file for file in files if "import torch" in file.read_text()}
    assert {file.name for file in knowing if file.parent.name != "operators"} == {"kernels.py", "cuda.py"}  # the normalizers'
    assert {file.parent.name for file in knowing} == {"operators", "normalizers", "accelerators"}
