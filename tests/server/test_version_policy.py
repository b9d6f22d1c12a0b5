import pytest
from google.protobuf import text_format
from normserve_proto import open_inference_pb2 as pb
from normserve_server.version_policy import wanted


@pytest.mark.parametrize(
    ("policy", "numbers", "expected"),
    [
        ("", [1, 10, 9], (10,)),
        ("latest { }", [1, 10, 9], (10,)),
        ("latest { num_versions: 2 }", [1, 10, 9], (9, 10)),
        ("latest { num_versions: 5 }", [3, 1], (1, 3)),
        ("all { }", [10, 9, 1], (1, 9, 10)),
        ("specific { versions: [9, 1, 9] }", [1, 9, 10], (1, 9)),
        ("specific { versions: [2] }", [1], (2,)),  # it is listed, with the reason that it is not there
        ("specific { }", [1], ()),
        ("all { }", [], ()),
        ("", [], ()),
    ],
)
def test_which_versions_are_to_serve(policy: str, numbers: list[int], expected: tuple[int, ...]) -> None:
    assert wanted(text_format.Parse(policy, pb.ModelVersionPolicy()), numbers) == expected
