"""Regions of shared memory that a caller made, names wrongly, shrinks, links elsewhere or takes away."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from normserve_proto import shared_memory as posix
from normserve_proto.tensors import Layout
from normserve_server import regions as registry
from normserve_server.errors import (
    AlreadyExistsError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    ServiceError,
    UnimplementedError,
)
from normserve_server.regions import Regions
from normserve_server.shared_memory import Place, Region

PAGE = 4096


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Objects of the tests' own, out of the way of everybody else's."""
    monkeypatch.setattr(posix, "FOLDER", str(tmp_path))
    return tmp_path


@pytest.fixture
def three_pages(folder: Path) -> Path:
    path = folder / "object"
    path.write_bytes(np.arange(3 * PAGE, dtype=np.uint32).astype(np.uint8).tobytes())
    return path


def layout(count: int) -> Layout:
    return Layout.of("x", "UINT8", [count])


@pytest.mark.parametrize("offset", [0, 1, PAGE, PAGE + 7])
def test_a_region_begins_anywhere_in_its_object(three_pages: Path, offset: int) -> None:
    region = Region("r", "/object", offset, PAGE)
    part = region.part(Place("r", 5, 10))
    assert part.read(layout(10)).tobytes() == three_pages.read_bytes()[offset + 5 : offset + 15]
    part.write(b"0123456789")
    assert three_pages.read_bytes()[offset + 5 : offset + 15] == b"0123456789"


def test_what_was_read_is_no_view(three_pages: Path) -> None:
    part = Region("r", "object", 0, PAGE).part(Place("r", 0, 4))
    before = part.read(layout(4))
    part.write(b"xxxx")
    assert before.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("key", ["", "/", ".", "..", "/..", "//object", "a/b", "../object", "/x/../object", "a\0b", "é" * 128])
def test_a_key_is_a_name_and_no_path(three_pages: Path, key: str) -> None:
    with pytest.raises(InvalidRequestError, match="region 'r': a key is '/' and a file name"):
        Region("r", key, 0, PAGE)


def _link(folder: Path) -> None:
    (folder / "odd").symlink_to(folder / "object")


def _folder(folder: Path) -> None:
    (folder / "odd").mkdir()


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "odd")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (_link, "cannot be opened: Too many levels"),
        (_folder, "cannot be opened: Is a dir"),
        (_pipe, "not a shared memory object"),
    ],
)
def test_a_key_names_a_plain_object(three_pages: Path, make, text: str) -> None:
    make(three_pages.parent)
    with pytest.raises(InvalidRequestError, match=text):
        Region("r", "/odd", 0, PAGE)


def test_an_object_that_is_not_there(folder: Path) -> None:
    with pytest.raises(NotFoundError, match="no shared memory object '/gone' where the server runs"):
        Region("r", "/gone", 0, 1)


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 3 * PAGE + 1), (3 * PAGE, 1), (1, 3 * PAGE), (0, 0), (2**63, 2**63), (0, 2**64 - 1)]
)
def test_a_region_is_within_its_object(three_pages: Path, offset: int, size: int) -> None:
    with pytest.raises(InvalidRequestError, match=f"region 'r': bytes {offset} to {offset + size} of key .* 12288"):
        Region("r", "object", offset, size)


def test_memory_that_is_not_there_is_found_missing_at_once() -> None:
    """A sparse object is larger than all of the machine's shared memory; the first write to it would end the process."""
    path = Path(posix.FOLDER) / f"normserve-test-{os.getpid()}"
    path.touch()
    try:
        os.truncate(path, 2**50)
        with pytest.raises(InvalidRequestError, match=r"cannot be mapped: .*No space left"):
            Region("r", path.name, 0, 2**50)
        assert path.stat().st_blocks == 0
    finally:
        path.unlink()


@pytest.mark.parametrize(("offset", "size"), [(0, PAGE + 1), (PAGE, 1), (PAGE + 1, 0), (2**62, 1)])
def test_a_place_is_within_its_region(three_pages: Path, offset: int, size: int) -> None:
    with pytest.raises(InvalidRequestError, match=f"has {PAGE} bytes, got shared_memory_offset {offset} and .* {size}"):
        Region("r", "object", PAGE, PAGE).part(Place("r", offset, size))


def test_a_shrunken_object_is_refused_and_not_touched(three_pages: Path) -> None:
    part = Region("r", "object", 0, 3 * PAGE).part(Place("r", 2 * PAGE, PAGE))
    os.truncate(three_pages, PAGE)
    for use in (lambda: part.read(layout(PAGE)), lambda: part.write(b"x")):
        with pytest.raises(InvalidRequestError, match="has shrunk to 4096 bytes"):
            use()


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [((0, 10), (9, 1), True), ((0, 10), (10, 1), False), ((5, 1), (0, 10), True), ((3, 0), (0, 10), False)],
)
def test_overlaps_show_through_two_regions_of_one_object(three_pages: Path, one, other, overlap: bool) -> None:
    low, high = Region("low", "object", 0, PAGE), Region("high", "object", 100, PAGE)
    here, there = low.part(Place("low", 100 + one[0], one[1])), high.part(Place("high", *other))
    assert here.overlaps(there) == there.overlaps(here) == overlap


def test_other_objects_do_not_overlap(three_pages: Path) -> None:
    (three_pages.parent / "second").write_bytes(bytes(PAGE))
    parts = [Region("r", key, 0, PAGE).part(Place("r", 0, 10)) for key in ("object", "second")]
    assert not parts[0].overlaps(parts[1])


@pytest.fixture
def regions(three_pages: Path) -> Regions:
    made = Regions(allowed=True)
    made.add(Region("r", "object", 0, PAGE))
    return made


def test_a_name_is_taken_once(regions: Regions) -> None:
    with pytest.raises(AlreadyExistsError, match="'r' is registered already"):
        regions.add(Region("r", "object", 0, PAGE))
    regions.add(Region("s", "object", 0, PAGE))
    assert [region.name for region in regions.all()] == ["r", "s"]


def test_unregistering_one_or_all(regions: Regions) -> None:
    with pytest.raises(NotFoundError, match="'s'"):
        regions.remove("s")
    regions.remove("r")
    with pytest.raises(NotFoundError, match="no shared memory region 'r' is registered"):
        regions.find("r")
    regions.remove("")
    assert regions.all() == []


def test_who_uses_a_region_keeps_it(regions: Regions, three_pages: Path) -> None:
    part = regions.find("r").part(Place("r", 0, 4))
    regions.remove("r")
    three_pages.unlink()
    part.write(b"abcd")
    assert part.read(layout(4)).tobytes() == b"abcd"


def test_regions_leave_no_descriptors_behind(regions: Regions) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    regions.remove("")
    before = count()
    for key in ("object", "gone", "object"):
        with pytest.raises((InvalidRequestError, NotFoundError)):
            Region("r", key, PAGE, 3 * PAGE)
    regions.add(Region("r", "object", 0, PAGE))
    regions.remove("r")
    assert count() == before


def test_there_is_a_limit(regions: Regions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MOST_REGIONS", 2)
    regions.add(Region("s", "object", 0, PAGE))
    with pytest.raises(OverloadedError, match="2 shared memory regions are registered"):
        regions.add(Region("t", "object", 0, PAGE))


@pytest.mark.parametrize("use", [lambda r: r.find("r"), lambda r: r.all(), lambda r: r.remove(""), lambda r: r.remove("r")])
def test_nothing_works_where_it_is_off(use) -> None:
    with pytest.raises(UnimplementedError, match="allow_shared_memory is false"):
        use(Regions(allowed=False))


@pytest.fixture
def owner(three_pages: Path) -> Iterator[int]:
    """The descriptor by which an owner holds a lease."""
    descriptor = os.open(three_pages, os.O_RDWR)
    posix.take_lease(descriptor)
    yield descriptor
    os.close(descriptor)


def test_a_leased_region_goes_with_its_owner(three_pages: Path, regions: Regions, owner: int) -> None:
    name = f"{posix.LEASED}1"
    regions.add(Region(name, "object", 0, PAGE))
    assert {region.name for region in regions.all()} == {"r", name}
    assert {region.name for region in regions.all()} == {"r", name}  # asking does not take the lease away
    fcntl.flock(owner, fcntl.LOCK_UN)  # what the kernel does at the end of a process
    assert [region.name for region in regions.all()] == ["r"]  # which never had an owner that we know
    with pytest.raises(ServiceError, match=name):
        regions.find(name)
