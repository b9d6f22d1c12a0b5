"""An ONNX file as a servable, on onnxruntime."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import get_ident
from typing import Any

import onnxruntime as ort
import structlog
from normserve_proto.tensors import Array

from normserve_server import onnx_signature, warm_up
from normserve_server.accelerators.interface import Accelerator, DeviceBrokenError
from normserve_server.accelerators.tuning import Tuning
from normserve_server.binding import Bound, HostBinding, Unbound
from normserve_server.compute import Compute, Times
from normserve_server.device_binding import DeviceBinding
from normserve_server.errors import InternalError, InvalidRequestError, LoadError, ServiceError
from normserve_server.value_binding import ValueBinding

__all__ = ["LoadError", "OnnxSession"]

_log = structlog.get_logger(__name__)


class OnnxSession:
    """One onnxruntime session.

    Args:
        path: the ONNX file.
        accelerator: where it runs.
        threads: threads within one operator; 0 for one per core.
        max_batch_size: most samples in a run, 0 for no batching, None to find out from the file's shapes.
        default_max_batch_size: what is taken where the file has a batch axis and nothing else was said.
        graph_optimization: the name of onnxruntime's GraphOptimizationLevel.
        tuning: how a GPU is used.
        fallen_back: called with "cuda_graphs" where they were wanted and cannot be, on any thread.

    Attributes:
        compute: where it runs, and on what.
        captured_sizes: batch sizes whose runs each thread captures as CUDA graphs before its first one; empty for none.

    Raises:
        LoadError: onnxruntime does not take the file, gave another device, or the shapes contradict `max_batch_size`.
    """

    def __init__(
        self,
        path: Path,
        accelerator: Accelerator,
        *,
        threads: int,
        max_batch_size: int | None,
        default_max_batch_size: int,
        graph_optimization: str = "ORT_ENABLE_ALL",
        tuning: Tuning = Tuning(),  # noqa: B008 - it cannot change
        fallen_back: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.compute = Compute(accelerator, accelerator.lane())
        self._fallen_back = fallen_back
        options = _options(threads, graph_optimization)
        self._session = self._open(path, options, tuning)
        self.provider: str = self._session.get_providers()[0]
        self.signature = onnx_signature.read(self._session, max_batch_size, default_max_batch_size)
        self._file = self.signature  # what the session itself has, whatever clients see
        self.captured_sizes: Sequence[int] = ()
        self._bound: dict[int, Bound] = {}
        self._values: ValueBinding | None = None

    def run(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """Computes the outputs, in the signature's order. Any number of threads may.

        Raises:
            InvalidRequestError: a BYTES element is not UTF-8, which onnxruntime's strings are.
            DeviceMemoryError: there is no room on the device for these inputs, or their outputs.
            DeviceBrokenError: the device will do nothing any more.
            InternalError: onnxruntime failed on these inputs.
        """
        try:
            bound = self._bound.get(get_ident()) or self._bind()
            return bound.run(inputs)
        except ServiceError:
            raise
        except Exception as error:  # onnxruntime's exceptions have no other base
            raise self.failure(error) from error

    def run_values(self, values: Mapping[str, Any]) -> Sequence[Any]:
        """Orders a run on the session's lane, in `Lane.run`: see `ValueBinding`. Hold `compute.turn`."""
        if self._values is None:
            self._values = ValueBinding(self._session, self.compute)
        return self._values.run(values)

    def failure(self, error: Exception) -> ServiceError:
        """Says what a failure on the device is to callers; of a device that is broken, that it is."""
        if isinstance(error, InvalidRequestError):
            return error  # unasked, for the question waits for all that the device is at
        broken = self.compute.accelerator.broken()
        if broken is not None:
            return DeviceBrokenError(f"{self.compute.accelerator.device}: {broken}")
        return error if isinstance(error, ServiceError) else InternalError(f"onnxruntime: {_first_line(error)}")

    @property
    def times(self) -> Times | None:
        """How long the parts of the calling thread's last run took on the device; None where nothing is copied for it."""
        bound = self._bound.get(get_ident())
        return bound.times if isinstance(bound, DeviceBinding) else None

    def leave(self) -> None:
        """Gives back what the calling thread's runs were bound to, which it will need no more."""
        self._bound.pop(get_ident(), None)

    def _open(self, path: Path, options: ort.SessionOptions, tuning: Tuning) -> ort.InferenceSession:
        providers = self.compute.accelerator.providers(tuning, self.compute.lane)
        try:
            session = ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # as above
            if tuning.cuda_graphs:  # it takes only files that run on the GPU from end to end
                session = self._open(path, options, replace(tuning, cuda_graphs=False))
                self._fall_back(error)
                return session
            raise LoadError(f"onnxruntime does not load it: {_first_line(error)}") from error
        wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
        got = session.get_providers()[0]
        if got != wanted:
            raise LoadError(f"asked for {wanted} ({self.compute.accelerator.device}), the session got {got}")
        return session

    def _bind(self) -> Bound:
        """What the calling thread runs with."""
        bound: Bound
        if any(spec.datatype == "BYTES" for spec in (*self._file.inputs, *self._file.outputs)):
            bound = Unbound(self._session, self._file)
        elif self.compute.accelerator.apart:
            bound = DeviceBinding(self._session, self._file, self.compute)
            self._capture(bound)
        else:
            bound = HostBinding(self._session, self._file)
        self._bound[get_ident()] = bound
        return bound

    def _capture(self, bound: DeviceBinding) -> None:
        """Captures the largest first: memory that grows ends the graphs that use it."""
        for size in sorted(self.captured_sizes, reverse=True):
            inputs = warm_up.zeros(self._file, size)
            try:
                if inputs is not None:
                    bound.capture(inputs)
            except Exception as error:  # whatever it is, runs that are not captured may work
                if self.compute.accelerator.broken() is not None:
                    raise self.failure(error) from error
                self._fall_back(error)
                self.captured_sizes = ()
                return

    def _fall_back(self, error: Exception) -> None:
        _log.warning("no CUDA graphs", reason=_first_line(error))
        self._fallen_back("cuda_graphs")


def _options(threads: int, graph_optimization: str) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, graph_optimization)
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; what is lacking is said once, by us
    return options


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
