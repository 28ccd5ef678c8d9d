"""A long training takes no more memory than a short one."""

import gc
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.models.test_fold import nvae
from tests.test_chain_networks import small_energy
from vaebm.adam_bound import bound_gradients
from vaebm.ebm_stage import EBMStage
from vaebm.samplers import LangevinSampler, ReplayBuffer
from vaebm.spaces import NoiseSpace

STATM = Path("/proc/self/statm")


def tensors() -> int:
    """Bytes of all tensors that are in use."""
    gc.collect()
    found = (thing for thing in gc.get_objects() if type(thing) in (Tensor, torch.nn.Parameter))
    # Other tests may have left tensors of other kinds.
    plain = [t.untyped_storage() for t in found if t.layout is torch.strided and not t.is_meta]
    return sum({storage.data_ptr(): storage.nbytes() for storage in plain}.values())


def resident() -> int:
    """Bytes of this process's memory."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not STATM.exists(), reason="the system does not tell a process's memory")
@pytest.mark.filterwarnings("ignore:You are trying to .self.log")
def test_memory_does_not_grow_over_a_thousand_iterations() -> None:
    sampler, replay = LangevinSampler(2, 1e-2), ReplayBuffer(40, 0.5, 0)
    vae = nvae("res_mbconv")
    stage = EBMStage(small_energy(), sampler, NoiseSpace(), replay, vae=vae, data_init_batches=0)
    optimizer, sizes = stage.train().make_optimizer(), []
    images = torch.rand(8, *vae.image_shape)
    for index in range(1_100):
        optimizer.zero_grad()
        stage.training_step(images, index).backward()
        bound_gradients(optimizer)
        optimizer.step()
        if index in (99, 1_099):
            sizes.append((tensors(), resident()))
    (early, early_resident), (late, late_resident) = sizes
    assert late == early
    assert late_resident - early_resident < 16e6
