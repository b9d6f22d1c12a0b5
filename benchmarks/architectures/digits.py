"""The digits network that `make run` serves, trained; see its module."""

from normserve_models.zoo.digits import INPUTS
from normserve_models.zoo.digits import load as network

__all__ = ["INPUTS", "network"]
