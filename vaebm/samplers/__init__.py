"""Samplers: the contract, one file per transition kernel, and persistent chain starts."""

from vaebm.samplers.adaptation import DualAveraging
from vaebm.samplers.base import Chain, Potential, Sampler, StepInfo, samplers, value_and_grad
from vaebm.samplers.hmc import HMCSampler
from vaebm.samplers.independence import IndependenceSampler
from vaebm.samplers.langevin import LangevinSampler
from vaebm.samplers.mala import MALASampler
from vaebm.samplers.mixture import MixtureSampler
from vaebm.samplers.pcn import PCNLangevinSampler
from vaebm.samplers.replay import ReplayBuffer
from vaebm.samplers.resampling import ResamplingSampler
from vaebm.samplers.schedule import Schedule

__all__ = [
    "Chain",
    "DualAveraging",
    "HMCSampler",
    "IndependenceSampler",
    "LangevinSampler",
    "MALASampler",
    "MixtureSampler",
    "PCNLangevinSampler",
    "Potential",
    "ReplayBuffer",
    "ResamplingSampler",
    "Sampler",
    "Schedule",
    "StepInfo",
    "samplers",
    "value_and_grad",
]
