"""The two clients are one interface, and the operators are torch's."""

import inspect

import pytest
import torch
from normserve import AsyncClient, Client

OPERATORS = ("batch_norm", "layer_norm", "instance_norm", "group_norm", "rms_norm", "local_response_norm", "normalize")


def public(kind):
    return {name: member for name, member in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


def test_both_have_the_same_verbs():
    assert public(Client).keys() == public(AsyncClient).keys()
    assert set(OPERATORS) < public(Client).keys()


@pytest.mark.parametrize("verb", ["__init__", *sorted(public(Client))])
def test_a_verb_has_the_same_signature_in_both(verb):
    ours, theirs = inspect.signature(getattr(Client, verb)), inspect.signature(getattr(AsyncClient, verb))
    if verb == "infer_stream":  # whose iterators are asynchronous on one side
        assert [(p.name, p.kind, p.default) for p in ours.parameters.values()] == [
            (p.name, p.kind, p.default) for p in theirs.parameters.values()
        ]
        return
    assert ours == theirs


@pytest.mark.parametrize("verb", sorted(public(AsyncClient)))
def test_every_verb_of_the_async_client_is_awaited(verb):
    member = getattr(AsyncClient, verb)
    assert inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member)


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_has_torchs_names_order_and_defaults(operator):
    theirs = inspect.signature(getattr(torch.nn.functional, operator)).parameters.values()
    ours = [p for p in inspect.signature(getattr(Client, operator)).parameters.values() if p.name != "self"]
    positional = [(p.name, p.default) for p in ours if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == [(p.name, p.default) for p in theirs if p.name != "out"]  # which nobody can write to from afar
    assert all(p.default is None for p in ours if p.kind is p.KEYWORD_ONLY)


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_has_a_timeout(operator):
    assert "timeout" in inspect.signature(getattr(Client, operator)).parameters
