"""Triton's own client and its shared memory module, unmodified, in a process of their own."""

import subprocess
import sys
from pathlib import Path

import pytest
from normserve.testing import RunningServer
from normserve_proto.shared_memory import FOLDER

pytest.importorskip("tritonclient.grpc", reason="the dependency group `conformance` is not installed")

SCRIPT = """
import os, sys
import numpy as np
import tritonclient.grpc as triton
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

client = triton.InferenceServerClient(sys.argv[1])
client.unregister_system_shared_memory()
client.unregister_cuda_shared_memory()
assert not client.get_cuda_shared_memory_status().regions

x = np.arange(20_000, dtype=np.float32).reshape(2, -1)
key = f"normserve-test-triton-{os.getpid()}"
memory = shm.create_shared_memory_region("both", key, 2 * x.nbytes)
client.register_system_shared_memory("both", "/" + key, 2 * x.nbytes)
status = client.get_system_shared_memory_status("both").regions["both"]
assert (status.key, status.offset, status.byte_size) == ("/" + key, 0, 2 * x.nbytes)
try:
    client.register_system_shared_memory("both", "/" + key, 8)
except InferenceServerException as error:
    assert error.status() == "StatusCode.ALREADY_EXISTS", error
else:
    raise AssertionError("registered twice")

for turn in range(3):
    shm.set_shared_memory_region(memory, [x + turn])
    tensor = triton.InferInput("x", x.shape, "FP32")
    tensor.set_shared_memory("both", x.nbytes)
    output = triton.InferRequestedOutput("y")
    output.set_shared_memory("both", x.nbytes, offset=x.nbytes)
    result = client.infer("double", [tensor], outputs=[output])
    told = result.get_output("y")
    assert (told.datatype, list(told.shape)) == ("FP32", [2, 10_000])
    assert told.parameters["shared_memory_region"].string_param == "both"
    assert told.parameters["shared_memory_byte_size"].int64_param == x.nbytes
    assert list(result.get_response().raw_output_contents) == [b""]
    y = shm.get_contents_as_numpy(memory, np.float32, x.shape, x.nbytes)
    assert np.array_equal(y, (x + turn) * 2)

classes = triton.InferRequestedOutput("y", class_count=3)
result = client.infer("double", [tensor], outputs=[classes])
assert result.as_numpy("y").tolist()[1] == [b"40002.000000:9999", b"40000.000000:9998", b"39998.000000:9997"]

client.unregister_system_shared_memory("both")
try:
    client.infer("double", [tensor])
except InferenceServerException as error:
    assert error.status() == "StatusCode.NOT_FOUND", error
else:
    raise AssertionError("inferred from a region that is not registered")
del y
shm.destroy_shared_memory_region(memory)
print("fine")
"""


def test_tritonclient(memory_server: RunningServer) -> None:
    command = [sys.executable, "-c", SCRIPT, memory_server.grpc_address]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "fine\n", "")
    assert not [path.name for path in Path(FOLDER).iterdir() if path.name.startswith("normserve-test-triton")]
