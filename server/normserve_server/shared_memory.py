"""Memory that callers share with the server: named ranges of POSIX shared memory objects.

What is in a region belongs to the caller, who may write to it, shrink it or die at any moment. Nothing that a model computes on
is a view of it, because kernels trust what they have checked: onnxruntime's Gather looks at its indices, then follows them, and
one that has changed in between ends the process. So an input is copied when its run begins, and an output when it has ended.
"""

import mmap
import os
import stat
import weakref
from dataclasses import dataclass

from normserve_proto import shared_memory as posix
from normserve_proto.tensors import Array, Buffer, Layout

from normserve_server.errors import InvalidRequestError, NotFoundError


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies, as a request says it.

    Attributes:
        region: the region's name.
        offset: of the first byte in the region, >= 0.
        byte_size: bytes from there on that are the tensor's, >= 0.
    """

    region: str
    offset: int
    byte_size: int


class Region:
    """A range of a shared memory object, mapped for as long as somebody refers to it.

    Args:
        name: what requests call it.
        key: the object's POSIX name.
        offset: of the region's first byte in the object.
        byte_size: of the region, > 0.

    Raises:
        InvalidRequestError: the key is none, is not a shared memory object or cannot be opened, the range is not in the object,
            or the machine has no memory left for it.
        NotFoundError: there is no such object.
    """

    def __init__(self, name: str, key: str, offset: int, byte_size: int) -> None:
        self.name = name
        self.key = key
        self.offset = offset
        self.byte_size = byte_size
        self._descriptor = _opened(name, key)
        weakref.finalize(self, os.close, self._descriptor)
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidRequestError(f"region '{name}': key '{key}' is not a shared memory object")
        if not byte_size or offset + byte_size > status.st_size:
            raise InvalidRequestError(
                f"region '{name}': bytes {offset} to {offset + byte_size} of key '{key}', which has {status.st_size}"
            )
        self._identity = status.st_dev, status.st_ino
        self._skipped = offset % mmap.ALLOCATIONGRANULARITY
        self._memory = self._mapped()

    def part(self, place: Place) -> "Part":
        """Gives a part of the region.

        Raises:
            InvalidRequestError: the place is not within it.
        """
        if place.offset + place.byte_size > self.byte_size:
            raise InvalidRequestError(
                f"region '{self.name}' has {self.byte_size} bytes, got shared_memory_offset {place.offset} and "
                f"shared_memory_byte_size {place.byte_size}"
            )
        return Part(self, place)

    def check(self) -> None:
        """Refuses a region whose object has shrunk since it was registered: touching what it lost would end the process.

        Raises:
            InvalidRequestError: it has.
        """
        size = os.fstat(self._descriptor).st_size
        if size < self.offset + self.byte_size:
            raise InvalidRequestError(f"region '{self.name}': its object has shrunk to {size} bytes; register it again")

    def view(self, place: Place) -> memoryview:
        """Views a part's bytes, for now.

        Raises:
            InvalidRequestError: the object has shrunk.
        """
        self.check()
        start = self._skipped + place.offset
        return memoryview(self._memory)[start : start + place.byte_size]

    def extent(self, place: Place) -> tuple[tuple[int, int], int, int]:
        """Gives which object a part is of, and its first and last byte + 1 there."""
        start = self.offset + place.offset
        return self._identity, start, start + place.byte_size

    @property
    def abandoned(self) -> bool:
        """Whether its owner, who was to hold a lease on it, is gone."""
        return self.name.startswith(posix.LEASED) and posix.lease_is_over(self._descriptor)

    def _mapped(self) -> mmap.mmap:
        try:
            # A page of a sparse object that cannot be had at the moment when it is touched ends the process.
            os.posix_fallocate(self._descriptor, self.offset, self.byte_size)
            return mmap.mmap(self._descriptor, self._skipped + self.byte_size, offset=self.offset - self._skipped)
        except (OSError, ValueError) as error:  # ValueError: it has just shrunk
            raise InvalidRequestError(f"region '{self.name}': key '{self.key}' cannot be mapped: {error}") from None


@dataclass(frozen=True, slots=True)
class Part:
    """A place in a region that stays mapped until this object goes, whoever unregisters it meanwhile."""

    region: Region
    place: Place

    def read(self, layout: Layout) -> Array:
        """Copies a tensor out.

        Raises:
            TensorError: the bytes are not such a tensor.
            InvalidRequestError: the object has shrunk.
        """
        return layout.view(self.region.view(self.place)).copy()

    def write(self, data: Buffer) -> None:
        """Copies bytes in, which must fit.

        Raises:
            InvalidRequestError: the object has shrunk.
        """
        self.region.view(self.place)[: len(data)] = data

    def overlaps(self, other: "Part") -> bool:
        """Whether both have a byte in common, also through two regions of one object."""
        mine, start, stop = self.region.extent(self.place)
        others, other_start, other_stop = other.region.extent(other.place)
        return mine == others and max(start, other_start) < min(stop, other_stop)


def _opened(name: str, key: str) -> int:
    try:
        return posix.open_object(key)
    except ValueError as error:
        raise InvalidRequestError(f"region '{name}': {error}") from None
    except FileNotFoundError:
        raise NotFoundError(f"region '{name}': there is no shared memory object '{key}' where the server runs") from None
    except OSError as error:
        raise InvalidRequestError(f"region '{name}': key '{key}' cannot be opened: {error.strerror}") from None
