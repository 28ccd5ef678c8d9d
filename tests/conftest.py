"""Fixtures that several test files share."""

import pytest
import torch

from tests.toys import LinearVAE

torch.set_num_threads(1)  # the tensors are small: a second thread only waits


@pytest.fixture(autouse=True)
def fixed_global_seed() -> None:
    """Make what a test draws from the global generator the same in every run and order."""
    torch.manual_seed(0)


@pytest.fixture
def linear_vae() -> LinearVAE:
    """A linear-Gaussian VAE with a fixed σ: density and posterior are known exactly."""
    return LinearVAE()


@pytest.fixture
def sloped_vae() -> LinearVAE:
    """A linear VAE whose pixel σ depends on z."""
    return LinearVAE(slope=0.5)
