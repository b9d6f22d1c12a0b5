"""ResNet-50, the one that `make bench` serves; see its module for the paper and for its weights."""

from normserve_models.zoo.resnet50 import INPUTS
from normserve_models.zoo.resnet50 import load as network

__all__ = ["INPUTS", "network"]
