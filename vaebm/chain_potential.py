"""U of a stage's chains, made of copies of its networks and kept from chain to chain."""

from functools import partial
from operator import is_not
from typing import Any

from vaebm.acceleration import CompiledPotential, GraphedPotential, accelerated
from vaebm.chain_networks import ChainNetworks
from vaebm.models.base import VAE, Energy
from vaebm.samplers.base import Potential
from vaebm.spaces import Space


class ChainPotential:
    """Makes the potential of chains; what was compiled or recorded lasts as long as it is valid.

    Args:
        compile: Use ``torch.compile``.
    """

    def __init__(self, *, compile: bool = False) -> None:
        self.compile = compile
        self.networks = ChainNetworks()
        self._parts: list[Any] = []
        self._potential: Potential | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle without networks: graphs hold the addresses of those here."""
        return partial(ChainPotential, compile=self.compile), ()

    @property
    def is_compiled(self) -> bool:
        """Whether the last potential was compiled, and did not fail to."""
        potential = self._potential
        if isinstance(potential, GraphedPotential):
            potential = potential.plain
        return isinstance(potential, CompiledPotential) and potential.works

    def of(self, space: Space, vae: VAE, energy: Energy) -> Potential:
        """U with the weights of now; it is valid until a weight changes.

        Args:
            space: The chains' space.
            vae: The VAE, in evaluation mode.
            energy: The energy; its own weights get no gradient from chains.
        """
        decoder, twin = self.networks.decoder_of(vae), self.networks.energy_of(energy)
        parts = [space, decoder, twin]
        if self._potential is None or any(map(is_not, parts, self._parts)):
            device = next(vae.parameters()).device
            potential = space.potential(decoder, twin)
            self._potential = accelerated(potential, device, compile=self.compile)
            self._parts = parts
        return self._potential
