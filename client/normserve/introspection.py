"""The verbs by which a server tells of itself and of its models."""

from abc import ABC, abstractmethod
from typing import Any, TypeVar

from normserve import requests
from normserve.errors import UnavailableError
from normserve.requests import Call
from normserve.results import ModelIndex, ModelMetadata, ModelStatistics, ServerMetadata

T = TypeVar("T")


class Introspection(ABC):
    """The verbs, for whoever can send a call and wait for it."""

    @abstractmethod
    def _send(self, call: Call[T], timeout: float | None) -> T: ...

    def is_live(self, *, timeout: float | None = None) -> bool:
        """Tells whether the server answers; False where nobody does.

        Args:
            timeout: seconds.

        Raises:
            NormserveError: the call failed in another way than UNAVAILABLE.
        """
        try:
            return self._send(requests.server_live(), timeout)
        except UnavailableError:
            return False

    def is_ready(self, model: str | None = None, version: str = "", *, timeout: float | None = None) -> bool:
        """Tells whether a model serves, or without one whether everything in the repository does.

        Args:
            model: its name.
            version: an integer in decimal; empty for the server's choice.
            timeout: seconds.

        Raises:
            NotFoundError: there is no such model or version.
            NormserveError: the call failed in another way than UNAVAILABLE, which is False.
        """
        try:
            return self._send(requests.ready(model, version), timeout)
        except UnavailableError:
            return False

    def metadata(self, model: str, version: str = "", *, timeout: float | None = None) -> ModelMetadata:
        """Tells a model's inputs and outputs.

        Args:
            model: its name.
            version: an integer in decimal; empty for the server's choice.
            timeout: seconds.

        Raises:
            NotFoundError: there is no such model or version.
            NormserveError: the call was not answered.
        """
        return self._send(requests.model_metadata(model, version), timeout)

    def model_config(self, model: str, version: str = "", *, timeout: float | None = None) -> dict[str, Any]:
        """Tells how a model is served: its ModelConfig, completed from its file.

        Args:
            model: its name.
            version: an integer in decimal; empty for the server's choice.
            timeout: seconds.

        Returns:
            The fields that are set, as protobuf's JSON has them: names for enumerations, text for integers of 64 bits.

        Raises:
            NotFoundError: there is no such model or version.
            NormserveError: the call was not answered.
        """
        return self._send(requests.model_config(model, version), timeout)

    def statistics(self, model: str = "", version: str = "", *, timeout: float | None = None) -> tuple[ModelStatistics, ...]:
        """Tells what the requests of each version that serves add up to since it was loaded.

        Args:
            model: its name; empty for all models.
            version: an integer in decimal; empty for all of the model's.
            timeout: seconds.

        Raises:
            NotFoundError: there is no such model or version.
            NormserveError: the call was not answered.
        """
        return self._send(requests.statistics(model, version), timeout)

    def server_metadata(self, *, timeout: float | None = None) -> ServerMetadata:
        """Tells the server's name, version and extensions.

        Args:
            timeout: seconds.

        Raises:
            NormserveError: the call was not answered.
        """
        return self._send(requests.server_metadata(), timeout)

    def models(self, *, only_ready: bool = False, timeout: float | None = None) -> tuple[ModelIndex, ...]:
        """Lists every version in the server's repository with its state.

        Args:
            only_ready: leave out what does not serve.
            timeout: seconds.

        Raises:
            UnimplementedError: the server has no repository index.
            NormserveError: the call was not answered.
        """
        return self._send(requests.repository_index(only_ready=only_ready), timeout)
