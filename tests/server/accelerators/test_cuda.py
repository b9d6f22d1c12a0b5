"""What can be said of CUDA without it: onnxruntime's words for the settings."""

import pytest
from normserve_server.accelerators import cuda
from normserve_server.accelerators.cuda import Cuda, cuda_options
from normserve_server.accelerators.tuning import Tuning
from normserve_server.devices import CPU, CUDA, TENSORRT, Device
from normserve_server.errors import DeviceMemoryError, LoadError


class Stream:
    cuda_stream = 0x5EED


class Lane:
    stream = Stream()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    monkeypatch.setattr(cuda.torch.cuda, "is_available", lambda: True)
    return Cuda(Device(CUDA, 2))


def test_by_default_nothing_is_rounded_captured_or_limited() -> None:
    options = cuda_options(Tuning())
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert [options[name] for name in ("use_tf32", "prefer_nhwc", "enable_cuda_graph")] == ["0", "0", "0"]
    assert "gpu_mem_limit" not in options


def test_every_setting_has_its_option() -> None:
    options = cuda_options(Tuning(10**9, "EXHAUSTIVE", tf32=True, prefer_nhwc=True, cuda_graphs=True))
    assert options["gpu_mem_limit"] == "1000000000"
    assert options["cudnn_conv_algo_search"] == "EXHAUSTIVE"
    assert [options[name] for name in ("use_tf32", "prefer_nhwc", "enable_cuda_graph")] == ["1", "1", "1"]


def test_the_session_computes_on_its_lane_s_stream(gpu: Cuda) -> None:
    (name, options), rest = gpu.providers(Tuning(), Lane())
    assert (name, rest) == (CUDA, CPU)
    assert (options["device_id"], options["user_compute_stream"]) == (2, str(0x5EED))


def test_tensorrt_is_there_or_the_model_is_refused(gpu: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Tuning(tensorrt=True)
    monkeypatch.setattr(cuda.ort, "get_available_providers", lambda: [CUDA, CPU])
    with pytest.raises(LoadError, match=f"this onnxruntime has no {TENSORRT}"):
        gpu.providers(wanted, Lane())
    monkeypatch.setattr(cuda.ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    (first, options), (second, _), third = gpu.providers(wanted, Lane())
    assert (first, second, third) == (TENSORRT, CUDA, CPU)
    assert options["user_compute_stream"] == str(0x5EED)


@pytest.mark.parametrize(
    ("words", "broken"),
    [
        ("CUDA error: operation not permitted when stream is capturing\nand more", None),
        (
            "CUDA error: an illegal memory access was encountered\nand more",
            "CUDA error: an illegal memory access was encountered",
        ),
    ],
)
def test_a_graph_that_is_being_captured_breaks_nothing(gpu: Cuda, monkeypatch, words: str, broken: str | None) -> None:
    def fail(_: object) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr(cuda.torch.cuda, "synchronize", fail)
    assert gpu.broken() == broken


@pytest.mark.parametrize("words", ["CUDA out of memory. Tried to allocate 8 bytes", "CUDA error: out of memory"])
def test_memory_that_is_not_there_is_told_with_the_numbers(gpu: Cuda, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr(cuda.torch, "empty", fail)
    monkeypatch.setattr(cuda.torch.cuda, "mem_get_info", lambda _: (7, 80))
    for take in (gpu.memory, gpu.staging):
        with pytest.raises(DeviceMemoryError, match="cuda:2: wanted 8 bytes of memory, 7 of 80 are free"):
            take(8)
