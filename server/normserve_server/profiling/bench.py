"""A session with its inputs and outputs bound, and clocks beside it.

Copies and kernels are ordered on one lane, one behind the other, so that the device's own events tell them apart; a server with
`double_buffering` lets those of neighbouring batches overlap.
"""

import itertools
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnxruntime as ort
from normserve_proto.tensors import Array

from normserve_server.accelerators.interface import Accelerator, Memory
from normserve_server.binding import hosted
from normserve_server.calls import now
from normserve_server.compute import graph
from normserve_server.profiling.subject import Subject, complete

_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of one run.

    Attributes:
        copy_in: inputs to the device; 0 on the host.
        run: the session, from its first kernel to its last on the device.
        copy_out: outputs from the device; 0 on the host.
        host: all else.
    """

    copy_in: float
    run: float
    copy_out: float
    host: float


class Bench:
    """A session with its inputs and outputs bound, and a clock beside it.

    Args:
        subject: what is to be measured.
        accelerator: where.
        options: of the session, beside what `subject` asks for.
        number: of the graph that runs are captured as; None for none.

    Attributes:
        session: onnxruntime's.
        inputs: all of them, by name.
    """

    def __init__(
        self, subject: Subject, accelerator: Accelerator, options: ort.SessionOptions, number: int | None = None
    ) -> None:
        options.intra_op_num_threads = subject.threads
        options.log_severity_level = 3
        self._lane = accelerator.lane()
        providers = accelerator.providers(subject.tuning, self._lane)
        self.session = ort.InferenceSession(str(subject.path), options, providers=providers)
        self.inputs = complete(self.session.get_inputs(), subject)
        self._accelerator = accelerator
        self._hosted = hosted(self.session, accelerator.where)
        self._graph = graph(number)
        self._binding = self.session.io_binding()
        self._filled: list[tuple[Array, Array, Memory]] = []
        self._landing: list[Array] = []
        for name, array in self.inputs.items():
            self._bind(name, array)
        for node in self.session.get_outputs():
            strings = node.type == "tensor(string)"  # which are on the host wherever the session runs
            self._binding.bind_output(node.name, *(("cpu", 0) if strings else accelerator.where))

    def lap(self) -> Times:
        """Runs once."""
        began, lane = now(), self._lane
        for array, staging, _ in self._filled:
            np.copyto(staging, array)
        marks = [lane.record()]
        for _, staging, memory in self._filled:
            lane.copy_in(memory, staging)
        marks.append(lane.record())
        self.order()
        marks.append(lane.record())
        self._fetch()
        marks.append(lane.record())
        marks[-1].synchronize()
        copy_in, run, copy_out = (later.seconds_since(earlier) for earlier, later in itertools.pairwise(marks))
        return Times(copy_in, run, copy_out, max(now() - began - copy_in - run - copy_out, 0.0))

    def order(self) -> None:
        """Orders one run of the session, without any copies."""
        self._lane.run(lambda: self.session.run_with_iobinding(self._binding, self._graph.options), self._graph.number)

    def outputs(self) -> list[Array]:
        """The last run's outputs as bytes, uint8 [nbytes] each; without those of strings. On a device apart only."""
        return self._landing

    def _bind(self, name: str, array: Array) -> None:
        """Binds an input: to the host's memory where the session reads that, else to memory that each lap fills."""
        memory = Memory(array.ctypes.data, array.nbytes, "cpu", 0, array)
        if self._accelerator.apart and name not in self._hosted:
            memory = self._accelerator.memory(array.nbytes)
            self._filled.append((_bytes(array), self._accelerator.staging(array.nbytes), memory))
        element = _BFLOAT16 if array.dtype == ml_dtypes.bfloat16 else array.dtype.type
        self._binding.bind_input(name, memory.kind, memory.index, element, array.shape, memory.pointer)

    def _fetch(self) -> None:
        """Orders the copies of the outputs to the host."""
        if not self._accelerator.apart:
            return
        values = [value for value in self._binding.get_outputs() if value.data_type() != "tensor(string)"]
        if not self._landing:
            self._landing = [self._accelerator.staging(value.tensor_size_in_bytes()) for value in values]
        for value, landing in zip(values, self._landing, strict=True):
            self._lane.copy_out(landing, Memory(value.data_ptr(), landing.nbytes, *self._accelerator.where, value))


def _bytes(array: Array) -> Array:
    return array.reshape(-1).view(np.uint8)
