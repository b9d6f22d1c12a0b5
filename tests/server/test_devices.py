import pytest
from normserve_server import devices
from normserve_server.devices import CPU, CUDA, Device, DeviceError, choose


@pytest.fixture(params=[0, 2])
def gpus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(devices, "gpu_count", lambda: request.param)
    monkeypatch.setattr(devices.ort, "get_available_providers", lambda: [CUDA, CPU])
    return int(request.param)


def test_auto_is_the_first_gpu_where_there_is_one(gpus: int) -> None:
    assert choose("auto") == (Device(CUDA, 0) if gpus else Device(CPU))


def test_cpu_is_the_cpu(gpus: int) -> None:
    assert choose("cpu") == Device(CPU)


def test_a_gpu_that_is_not_there_is_an_error(gpus: int) -> None:
    assert gpus == 0 or choose("cuda:1") == Device(CUDA, 1)
    with pytest.raises(DeviceError, match=f"device cuda:{gpus}: this machine shows {gpus} NVIDIA GPUs"):
        choose(f"cuda:{gpus}")


def test_a_runtime_without_cuda_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.ort, "get_available_providers", lambda: [CPU])
    monkeypatch.setattr(devices, "gpu_count", lambda: 1)
    assert choose("auto") == Device(CPU)
    with pytest.raises(DeviceError, match="install onnxruntime-gpu"):
        choose("cuda")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:²", "cuda:-1", "auto:1", ""])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(DeviceError, match="device is auto, cpu or cuda:N"):
        choose(name)


@pytest.mark.parametrize(
    ("visible", "count"),
    [(None, 2), ("", 0), ("-1", 0), ("1", 1), ("0,1", 2), ("0,-1,1", 1), ("GPU-1a2b, GPU-3c4d", 2), ("0,1,2", 2)],
)
def test_hidden_gpus_do_not_count(monkeypatch: pytest.MonkeyPatch, visible: str | None, count: int) -> None:
    monkeypatch.setattr(devices, "_driver_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.gpu_count() == count
