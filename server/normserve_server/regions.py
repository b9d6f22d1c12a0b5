"""The regions of shared memory that are registered, by name."""

from normserve_server.errors import NEVER, AlreadyExistsError, NotFoundError, OverloadedError, UnimplementedError
from normserve_server.shared_memory import Region

MOST_REGIONS = 256  # each holds two file descriptors, which connections need too


class Regions:
    """The regions by name; everything here happens on the event loop.

    Args:
        allowed: whether there may be any.
    """

    def __init__(self, *, allowed: bool) -> None:
        self._allowed = allowed
        self._regions: dict[str, Region] = {}

    def find(self, name: str) -> Region:
        """Looks a region up.

        Raises:
            NotFoundError: there is none of that name.
            UnimplementedError: shared memory is not allowed.
        """
        self.check_allowed()
        region = self._regions.get(name)
        if region is None:
            raise NotFoundError(f"no shared memory region '{name}' is registered")
        return region

    def all(self) -> list[Region]:
        """Gives every region, by name, and forgets those whose owners are gone.

        Raises:
            UnimplementedError: shared memory is not allowed.
        """
        self.check_allowed()
        self._regions = {name: region for name, region in sorted(self._regions.items()) if not region.abandoned}
        return list(self._regions.values())

    def add(self, region: Region) -> None:
        """Takes a region in.

        Raises:
            AlreadyExistsError: its name is taken.
            OverloadedError: there are too many.
            UnimplementedError: shared memory is not allowed.
        """
        others = self.all()
        if region.name in self._regions:
            raise AlreadyExistsError(f"shared memory region '{region.name}' is registered already")
        if len(others) >= MOST_REGIONS:
            raise OverloadedError(
                f"{MOST_REGIONS} shared memory regions are registered, which is the limit", retry_after_ms=NEVER
            )
        self._regions[region.name] = region

    def remove(self, name: str) -> None:
        """Forgets a region, or all of them if `name` is empty; requests that use it are not disturbed.

        Raises:
            NotFoundError: there is none of that name.
            UnimplementedError: shared memory is not allowed.
        """
        self.check_allowed()
        if not name:
            self._regions.clear()
        elif self._regions.pop(name, None) is None:
            raise NotFoundError(f"no shared memory region '{name}' is registered")

    def check_allowed(self) -> None:
        """Refuses where shared memory is off.

        Raises:
            UnimplementedError: it is.
        """
        if not self._allowed:
            raise UnimplementedError("shared memory is off; the server's setting allow_shared_memory is false")
