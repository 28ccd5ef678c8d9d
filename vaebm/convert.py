"""Published checkpoints, of NVAE and of the energy networks on top of it, as ours."""

import os
import re
from argparse import Namespace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Trainer
from torch import Tensor

from vaebm.checkpoints.reading import load_data, load_vae
from vaebm.ebm_stage import EBMStage
from vaebm.errors import DataError, UsageError
from vaebm.models.base import VAE
from vaebm.models.energy import ResidualEnergy
from vaebm.models.nvae import NVAE
from vaebm.official.arguments import (
    model_arguments,
    number_of_cells,
    operator_lists,
    stage_arguments,
)
from vaebm.official.energy import energy_arguments, energy_names, energy_stage
from vaebm.official.names import official_names
from vaebm.official.weights import check_weights, load_weights, plain_weights
from vaebm.outputs import check_file
from vaebm.stage import Stage
from vaebm.vae_stage import VAEStage


def load_nvae(path: str | Path) -> NVAE:
    """Load a published NVAE checkpoint, architecture and weights.

    Args:
        path: A file that NVAE's training wrote, e.g. ``checkpoint.pt``.

    Returns:
        The model in evaluation mode, in CPU memory; call ``.train()`` to train it further.

    Raises:
        UsageError: If there is no such file.
        DataError: If it is damaged, of another kind, or does not hold exactly the weights of the
            architecture that it names.
    """
    return nvae_of(read_published(path), path)


def load_energy(path: str | Path) -> ResidualEnergy:
    """Load a published energy network, layout and weights.

    Args:
        path: A file that VAEBM's training wrote, e.g. ``EBM.pth``.

    Returns:
        The network in evaluation mode, in CPU memory, marked as initialised.

    Raises:
        UsageError: If there is no such file.
        DataError: If it is damaged, of another kind, or does not hold exactly the weights of one of
            the published layouts (`vaebm.models.energy.LAYOUTS`).
    """
    return energy_of(read_published(path), path)


def convert(
    checkpoint: str | Path, output: str | Path, vae_checkpoint: str | Path | None = None
) -> None:
    """Write a published checkpoint as one of this package.

    An NVAE becomes a checkpoint of stage 1, an energy network together with its VAE one of stage 2.
    The weights, the architecture and the settings of the training are taken over, the state of the
    optimiser is not: the result is for `vaebm sample`, `vaebm test` and, of an NVAE, stage 2.

    Args:
        checkpoint: A file that NVAE's or VAEBM's training wrote, e.g. ``checkpoint.pt``.
        output: File to write.
        vae_checkpoint: With an energy network: the VAE that it was trained on, as a checkpoint of
            ours or as the published file.

    Raises:
        UsageError: If `output` cannot be written or is there already, or `vae_checkpoint` is
            missing, superfluous or does not fit.
        DataError: See `load_nvae` and `load_energy`.
    """
    output = Path(output)
    check_file(output, replace=False)
    content = read_published(checkpoint)
    if is_energy(content) and vae_checkpoint is None:
        raise UsageError(
            f"{checkpoint} is an energy network: give the VAE that it was trained on by "
            "--vae_checkpoint NVAE.ckpt"
        )
    if vae_checkpoint is None:
        stage: Stage = stage_1(content, checkpoint)
    elif is_nvae(content):
        raise UsageError(f"--vae_checkpoint is for energy networks, but {checkpoint} is an NVAE")
    else:
        stage = stage_2(energy_of(content, checkpoint), vae_checkpoint, checkpoint)
    write_checkpoint(stage, output)


def stage_1(content: dict[str, Any], path: str | Path) -> VAEStage:
    """Stage 1 of a published NVAE checkpoint's content; `path` is for messages."""
    vae = nvae_of(content, path)
    try:
        return VAEStage(vae, **stage_arguments(content["args"]))
    except ValueError as error:
        raise DataError(f"checkpoint {path} cannot be converted: {error}") from error


def stage_2(energy: ResidualEnergy, vae_checkpoint: str | Path, path: str | Path) -> EBMStage:
    """Stage 2 of a published energy network and its VAE, with the published chains.

    Raises:
        UsageError: If the energy is not for images like those of the VAE.
    """
    vae = any_vae(vae_checkpoint)
    colours, stride = energy.conv1.in_channels, energy.stride
    shape = tuple(vae.image_shape)
    if len(shape) != 3 or shape[0] != colours or any(side % stride for side in shape[1:]):
        raise UsageError(
            f"{path} is for images of {colours} channels and sides that are multiples of {stride}, "
            f"but the VAE in {vae_checkpoint} makes images of shape {shape}"
        )
    return energy_stage(energy, vae)


def write_checkpoint(stage: Stage, output: Path) -> None:
    """Write the checkpoint of a stage, or nothing if that fails."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output.parent, prefix=".convert-") as folder:
        part = Path(folder) / output.name  # so that an interruption leaves no half of a file
        # The environment of a cluster is of no concern: one process writes one file.
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            plugins=[LightningEnvironment()],
            logger=False,
            enable_model_summary=False,
        )
        trainer.strategy.connect(stage)
        trainer.save_checkpoint(part, weights_only=True)
        os.replace(part, output)


def read_published(path: str | Path) -> dict[str, Any]:
    """The content of a published checkpoint, which `is_nvae` or `is_energy`.

    Raises:
        UsageError: If there is no such file.
        DataError: If it is damaged or of another kind.
    """
    content = load_data(path, [Namespace])
    parts: dict[str, Any] = content if isinstance(content, dict) else {}
    if "hyper_parameters" in parts:
        raise DataError(f"{path} is a checkpoint of vaebm already: nothing to convert")
    if not (is_nvae(parts) or is_energy(parts)):
        raise DataError(
            f"{path} is no published checkpoint: args or state_dict missing, as an NVAE has them, "
            "or model, as an energy network has it"
        )
    return parts


def is_nvae(content: Any) -> bool:
    """Whether a file's content is what NVAE's training writes."""
    parts = content if isinstance(content, dict) else {}
    return isinstance(parts.get("args"), Namespace) and isinstance(parts.get("state_dict"), dict)


def is_energy(content: Any) -> bool:
    """Whether a file's content is what VAEBM's training writes of an energy network."""
    return isinstance(content, dict) and isinstance(content.get("model"), dict)


def any_vae(path: str | Path) -> VAE:
    """The VAE of a checkpoint of ours or of a published one."""
    content = load_data(path, [Namespace])
    if is_energy(content):
        raise DataError(f"{path} is an energy network, but --vae_checkpoint is for the VAE")
    return nvae_of(content, path) if is_nvae(content) else load_vae(path)


def nvae_of(content: dict[str, Any], path: str | Path) -> NVAE:
    """Build the model of a published checkpoint's content; `path` is for messages."""
    if not is_nvae(content):
        raise DataError(f"{path} is an energy network of the VAEBM release, but an NVAE is due")
    try:
        arguments = model_arguments(content["args"])
        check_operators(content.get("arch_instance"), arguments["architecture"])
        weights = without_duplicates(content["state_dict"])
        if number_of_cells(arguments) > len(weights):
            raise DataError("its args describe more cells than it has weights")
        with torch.device("meta"):  # a wrong file costs neither time nor memory
            vae = NVAE(**arguments)
        check_weights(vae, official_names(vae), weights)
        vae = NVAE(**arguments)
        load_weights(vae, official_names(vae), weights)
    except ValueError as error:  # also what NVAE says of sizes that do not fit together
        raise DataError(f"checkpoint {path} cannot be converted: {error}") from error
    return vae.eval()


def energy_of(content: dict[str, Any], path: str | Path) -> ResidualEnergy:
    """Build the energy network of a published checkpoint's content; `path` is for messages."""
    if not is_energy(content):
        raise DataError(f"{path} is a published NVAE, but an energy network is due")
    try:
        weights = plain_weights(content["model"])
        arguments = energy_arguments(weights)
        with torch.device("meta"):
            energy = ResidualEnergy(**arguments)
        check_weights(energy, energy_names(energy), weights)
        energy = ResidualEnergy(**arguments)
        load_weights(energy, energy_names(energy), weights)
    except ValueError as error:
        raise DataError(f"checkpoint {path} cannot be converted: {error}") from error
    energy.initialised.fill_(True)  # its scales must not be taken from data once more
    return energy.eval()


def check_operators(listed: Any, architecture: str) -> None:
    """Compare the operators that a file lists with those of the architecture it names."""
    if not isinstance(listed, dict):
        return
    for kind, operators in operator_lists(architecture).items():
        if kind in listed and not same(listed[kind], operators):
            raise DataError(
                f"its arch_instance says {kind}={listed[kind]}, but {architecture} has {operators}"
            )


def same(listed: Any, operators: list[str]) -> bool:
    """Whether a list or tuple names these operators."""
    return isinstance(listed, list | tuple) and list(listed) == operators


def without_duplicates(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of an NVAE file under one name each.

    Convolutions whose weight is not normalised stand in newer files twice, as `weight` and as
    `weight_normalized`.

    Raises:
        DataError: If the two differ, or an entry is no plain tensor of real numbers.
    """
    weights = {}
    for key, value in plain_weights(state_dict).items():
        base, duplicate, _ = key.partition("_normalized")
        if not duplicate:
            # The last layer of a flow cell stands beside its other layers or below them.
            weights[re.sub(r"^(nf_cells\.\d+\.cell\d)\.conv\.mu\.", r"\1.mu.", key)] = value
        elif base not in state_dict or not value.equal(state_dict[base]):
            raise DataError(f"{key} is not the same as {base}")
    return weights
