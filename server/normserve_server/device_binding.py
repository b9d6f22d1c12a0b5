"""How a session on a device with memory of its own is run for one thread.

One run, on two lanes of the thread and one of the session:

    in        copy the inputs to the device, note `arrived`
    compute   wait for `arrived`, run, note `computed`: one thread at a time orders here, and waits for nothing
    out       wait for `computed`, copy the outputs to pinned memory, note `fetched`, which the thread waits for

So one thread's batch is copied in and out while another's computes. What is bound on the device belongs to the thread and stays
where it is, which the replay of a CUDA graph needs.
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnxruntime as ort
from normserve_proto.tensors import DTYPES, Array
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime_c

from normserve_server.accelerators.interface import Event, Memory
from normserve_server.binding import ELEMENT_TYPES, hosted, place
from normserve_server.compute import Compute, Graph, Span, Times
from normserve_server.compute import graph as new_graph
from normserve_server.servable import DYNAMIC, Signature, TensorSpec

CAPTURE_RUNS = 3  # onnxruntime wants one before the one that it captures; the last one replays


class Place(NamedTuple):
    """Where a tensor is on the device."""

    memory: Memory
    shape: tuple[int, ...]


class DeviceBinding:
    """Runs a session for one thread.

    Args:
        session: the session; without BYTES.
        signature: of the session's file.
        compute: what its threads share.
    """

    def __init__(self, session: ort.InferenceSession, signature: Signature, compute: Compute) -> None:
        self._session = session._sess
        self._binding = onnxruntime_c.SessionIOBinding(session._sess)
        self._signature = signature
        self._compute = compute
        self._where = compute.accelerator.where
        self._device, self._host = place(*self._where), place("cpu")
        self._hosted = hosted(session, self._where)
        self._in, self._out = compute.accelerator.lane(), compute.accelerator.lane()
        self._memories: dict[tuple[str, str], Memory] = {}
        self._plain = new_graph(None)
        self._graphs: dict[object, Graph] = {}
        self._spans: tuple[Span, ...] = ()

    @property
    def times(self) -> Times:
        """Of the last run that succeeded."""
        return Times(*(span.seconds for span in self._spans))

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """Computes the outputs, in the session's order; raises what onnxruntime and the device raise.

        Raises:
            DeviceMemoryError: there is no room for the inputs or outputs.
        """
        return self._run(inputs, self._graphs.get(_shapes(inputs), self._plain))

    def capture(self, inputs: Mapping[str, Array]) -> None:
        """Has runs of these inputs' shapes replayed from now on, where the outputs' are known too; raises as `run`.

        Not where an input is read on the host: a replay would have that of the capture.
        """
        if self._hosted or any(self._shape(spec, inputs) is None for spec in self._signature.outputs):
            return
        graph = new_graph(next(self._compute.numbers))
        with self._compute.accelerator.capturing:
            for _ in range(CAPTURE_RUNS):
                self._run(inputs, graph)
        self._graphs[_shapes(inputs)] = graph

    def _run(self, inputs: Mapping[str, Array], graph: Graph) -> Sequence[Array]:
        held: list[Array] = []  # until the run has ended
        try:
            sent = self._send(inputs, held)
            bound = [self._bind_output(spec, self._shape(spec, inputs)) for spec in self._signature.outputs]
            computed = self._order(sent.ended, graph)
            outputs, fetched = self._fetch(bound, computed.ended)
        except BaseException:
            self._settle()
            raise
        finally:
            self._binding.clear_binding_outputs()
        self._spans = (sent, computed, fetched)
        return outputs

    def _settle(self) -> None:
        """Waits for all lanes: what was to be read is the caller's again, and what is bound the next run's."""
        for lane in (self._in, self._compute.lane, self._out):
            with contextlib.suppress(Exception), self._compute.turn:  # a device that is broken says so again
                lane.record().synchronize()

    def _send(self, inputs: Mapping[str, Array], held: list[Array]) -> Span:
        span = Span(self._in)
        for spec in self._signature.inputs:
            array = np.require(inputs[spec.name], requirements="C")
            held.append(array)
            device, pointer = self._host, array.ctypes.data
            if spec.name not in self._hosted:
                memory = self._memory("in", spec.name, array.nbytes)
                self._in.copy_in(memory, array)
                device, pointer = self._device, memory.pointer
            self._binding.bind_input(spec.name, device, ELEMENT_TYPES[spec.datatype], array.shape, pointer)
        span.end()
        return span

    def _bind_output(self, spec: TensorSpec, shape: tuple[int, ...] | None) -> Place | None:
        """Binds an output to the thread's memory, or to what onnxruntime will allocate where its shape is not known."""
        if shape is None:
            self._binding.bind_output(spec.name, self._device)
            return None
        memory = self._memory("out", spec.name, math.prod(shape) * DTYPES[spec.datatype].itemsize)
        self._binding.bind_output(spec.name, self._device, ELEMENT_TYPES[spec.datatype], shape, memory.pointer)
        return Place(memory, shape)

    def _order(self, arrived: Event, graph: Graph) -> Span:
        """Orders the session's run."""
        lane = self._compute.lane
        with self._compute.turn:
            lane.wait(arrived)
            span = Span(lane)
            lane.run(lambda: self._session.run_with_iobinding(self._binding, graph.options), graph.number)
            span.end()
        return span

    def _fetch(self, bound: Sequence[Place | None], computed: Event) -> tuple[list[Array], Span]:
        self._out.wait(computed)
        span = Span(self._out)
        outputs = [
            self._receive(spec, where or self._allocated(position))
            for position, (spec, where) in enumerate(zip(self._signature.outputs, bound, strict=True))
        ]
        span.end().synchronize()
        return outputs, span

    def _receive(self, spec: TensorSpec, where: Place) -> Array:
        dtype = DTYPES[spec.datatype]
        staging = self._compute.accelerator.staging(math.prod(where.shape) * dtype.itemsize)
        self._out.copy_out(staging, where.memory)
        return staging.view(dtype).reshape(where.shape)

    def _allocated(self, position: int) -> Place:
        """Where onnxruntime has put an output; it is its memory, which it keeps as long as the value."""
        value = self._binding.get_outputs()[position]
        return Place(Memory(value.data_ptr(), value.tensor_size_in_bytes(), *self._where, value), tuple(value.shape()))

    def _memory(self, way: str, name: str, nbytes: int) -> Memory:
        """The thread's memory for a tensor, kept between runs."""
        memory = self._memories.get((way, name))
        if memory is None or memory.nbytes < nbytes:
            self._memories.pop((way, name), None)  # the old one first: there may not be room for both
            self._graphs.clear()  # they replay with the old one
            memory = self._memories[way, name] = self._compute.accelerator.memory(nbytes)
        return memory

    def _shape(self, spec: TensorSpec, inputs: Mapping[str, Array]) -> tuple[int, ...] | None:
        """An output's shape, as far as the file tells; None where it does not."""
        shape = spec.shape
        if self._signature.max_batch_size and inputs:
            shape = (len(next(iter(inputs.values()))), *shape[1:])
        return None if DYNAMIC in shape else shape


def _shapes(inputs: Mapping[str, Array]) -> object:
    return tuple(sorted((name, array.shape) for name, array in inputs.items()))
