"""Samplers: the contract, one file per transition kernel, and persistent chain starts."""

from vaebm.samplers.base import Chain, Potential, Sampler, StepInfo, samplers, value_and_grad
from vaebm.samplers.langevin import LangevinSampler
from vaebm.samplers.replay import ReplayBuffer
from vaebm.samplers.resampling import ResamplingSampler

__all__ = [
    "Chain",
    "LangevinSampler",
    "Potential",
    "ReplayBuffer",
    "ResamplingSampler",
    "Sampler",
    "StepInfo",
    "samplers",
    "value_and_grad",
]
