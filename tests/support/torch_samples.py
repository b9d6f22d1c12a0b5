"""torch's own samples of its operators and modules, which its wheel ships for its own tests."""

import sys
import types
import unittest
from collections.abc import Iterator
from typing import Any

import torch


def _databases() -> tuple[Any, Any]:
    # torch's testing package derives test cases from this one, of which nothing here makes use.
    if "expecttest" not in sys.modules:
        stand_in = types.ModuleType("expecttest")
        stand_in.TestCase = unittest.TestCase  # type: ignore[attr-defined]
        sys.modules["expecttest"] = stand_in
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db

    return op_db, module_db


def of_functional(name: str, dtype: torch.dtype) -> Iterator[tuple[torch.Tensor, tuple[Any, ...], dict[str, Any]]]:
    """Input, arguments and keywords of the samples of torch.nn.functional.`name`."""
    for operator in _databases()[0]:
        if operator.name == f"nn.functional.{name}":
            for sample in operator.sample_inputs("cpu", dtype, requires_grad=False):
                yield sample.input, sample.args, sample.kwargs


def refused_by_functional(name: str) -> Iterator[tuple[torch.Tensor, tuple[Any, ...], dict[str, Any], type[Exception], str]]:
    """The samples that it refuses, with the error's type and a pattern of its text."""
    for operator in _databases()[0]:
        if operator.name == f"nn.functional.{name}" and operator.error_inputs_func is not None:
            for error in operator.error_inputs(torch.device("cpu")):
                sample = error.sample_input
                yield sample.input, sample.args, sample.kwargs, error.error_type, error.error_regex


def of_module(name: str, dtype: torch.dtype, training: bool) -> Iterator[tuple[torch.nn.Module, torch.Tensor]]:
    """A fresh module and an input, for each sample of torch.nn.`name`."""
    for info in _databases()[1]:
        if info.name != f"nn.{name}":
            continue
        samples = info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=False, training=training)
        for sample in samples:
            made, call = sample.constructor_input, sample.forward_input
            module = info.module_cls(*made.args, **made.kwargs).to(dtype)
            module.train(training)
            yield module, call.args[0]
