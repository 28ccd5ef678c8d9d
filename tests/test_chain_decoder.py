"""Which weights chains see."""

from copy import deepcopy

import torch

from tests.models.test_fold import nvae
from vaebm.chain_decoder import ChainDecoder


def test_it_is_made_once_and_anew_where_weights_change() -> None:
    vae, decoder = nvae("res_mbconv"), ChainDecoder()
    first = decoder.of(vae)
    assert decoder.of(vae) is first
    eps = torch.randn(2, vae.noise_dim)
    vae.load_state_dict({name: 1.5 * value for name, value in vae.state_dict().items()})
    second = decoder.of(vae)
    assert second is not first
    torch.testing.assert_close(second.decode(eps).mean, vae.decode(eps).mean)


def test_it_follows_the_vae_to_another_type() -> None:
    vae, decoder = nvae("res_mbconv"), ChainDecoder()
    decoder.of(vae)
    vae.double()
    eps = torch.randn(2, vae.noise_dim, dtype=torch.float64)
    assert decoder.of(vae).decode(eps).mean.dtype == torch.float64


def test_copies_start_empty() -> None:
    vae, decoder = nvae("res_mbconv"), ChainDecoder()
    first = decoder.of(vae)
    assert deepcopy(decoder).of(vae) is not first
