"""Which versions of a model are to serve: the config's `version_policy`, as a pure function."""

from collections.abc import Iterable

from normserve_proto import open_inference_pb2 as pb


def wanted(policy: pb.ModelVersionPolicy, numbers: Iterable[int]) -> tuple[int, ...]:
    """Chooses versions.

    Args:
        policy: latest, all or specific; the latest one where it says nothing.
        numbers: the versions that there are.

    Returns:
        Ascending numbers. What `specific` names is among them even where it is not there, so that its absence is seen.
    """
    there = sorted(set(numbers))
    match policy.WhichOneof("policy_choice"):
        case "all":
            return tuple(there)
        case "specific":
            return tuple(sorted(set(policy.specific.versions)))
    return tuple(there[-(policy.latest.num_versions or 1) :])
