"""Objects that know the arguments they were made with."""

import copy
import importlib
import json
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.toys import Composite, LinearVAE, PlainEnergy, QuadraticEnergy
from vaebm.configurable import Configurable, class_path, from_config, to_config
from vaebm.errors import DataError
from vaebm.models import MLPVAE, MLPEnergy, models
from vaebm.samplers import LangevinSampler, ReplayBuffer, samplers
from vaebm.spaces import DataSpace, spaces

BUILTINS = [registry[name] for registry in (samplers, spaces, models) for name in registry.names()]


class Holder(Configurable):
    """Holds any value."""

    def __init__(self, value: Any, other: Any = None) -> None:
        self.value = value


class KeywordOnly(Configurable):
    """Takes its arguments by name only."""

    def __init__(self, *, width: int, depth: int = 2) -> None:
        self.width = width


def rebuild(config: dict[str, Any]) -> Any:
    """Import the class by its path and call it, as a checkpoint's reader would."""
    module, _, name = config["class_path"].rpartition(".")
    return getattr(importlib.import_module(module), name)(**config["init_args"])


@pytest.mark.parametrize("cls", BUILTINS, ids=lambda cls: cls.__name__)
def test_rebuilt_object_has_the_same_config(cls: type) -> None:
    config = to_config(cls())
    assert to_config(rebuild(config)) == config


@pytest.mark.parametrize("cls", BUILTINS, ids=lambda cls: cls.__name__)
def test_config_survives_json(cls: type) -> None:
    config = to_config(cls())
    assert json.loads(json.dumps(config)) == config


def test_config_holds_class_path_and_arguments() -> None:
    assert to_config(LangevinSampler(3, step_size=0.1)) == {
        "class_path": "vaebm.samplers.langevin.LangevinSampler",
        "init_args": {
            "num_steps": 3,
            "step_size": 0.1,
            "noise_scale": 1.0,
            "schedule": None,
            "noise_schedule": None,
        },
    }


def test_defaults_are_recorded() -> None:
    assert ReplayBuffer(capacity=7).init_args == {
        "capacity": 7,
        "reuse_prob": 0.6,
        "ramp_steps": 5_000,
        "device": "cpu",
        "redistribute": False,
    }


def test_keyword_only_arguments_are_recorded() -> None:
    assert KeywordOnly(width=5).init_args == {"width": 5, "depth": 2}


def test_class_without_a_constructor_has_no_arguments() -> None:
    assert PlainEnergy().init_args == {}


def test_class_without_a_constructor_is_rebuilt() -> None:
    assert isinstance(rebuild(to_config(PlainEnergy())), PlainEnergy)


def test_nested_objects_become_nested_configs() -> None:
    config = to_config(Composite([QuadraticEnergy(2.0), PlainEnergy()], shape=(3, 4)))
    assert config["init_args"] == {
        "parts": [
            {
                "class_path": "tests.toys.QuadraticEnergy",
                "init_args": {"curvature": 2.0, "centre": 0.0},
            },
            {"class_path": "tests.toys.PlainEnergy", "init_args": {}},
        ],
        "shape": [3, 4],
    }


def test_from_config_rebuilds_nested_objects() -> None:
    config = to_config(Composite([QuadraticEnergy(2.0), PlainEnergy()]))
    assert to_config(from_config(config, Composite)) == config


def test_from_config_refuses_a_class_of_another_kind() -> None:
    with pytest.raises(DataError, match="is no LangevinSampler"):
        from_config(to_config(DataSpace()), LangevinSampler)


@pytest.mark.parametrize("path", ["vaebm.spaces.Nothing", "no_such_package.Thing", "Thing"])
def test_from_config_names_a_class_that_cannot_be_imported(path: str) -> None:
    with pytest.raises(DataError, match=path):
        from_config({"class_path": path, "init_args": {}}, Configurable)


def test_class_path_names_module_and_class() -> None:
    assert class_path(LinearVAE) == "tests.toys.LinearVAE"


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (Path("a") / "b", "a/b"),
        ((1, (2.5, None)), [1, [2.5, None]]),
        (torch.Size([1, 8]), [1, 8]),
        (OrderedDict(a=True), {"a": True}),
        ({3: "x"}, {"3": "x"}),
    ],
)
def test_containers_become_plain_data(value: object, data: object) -> None:
    assert to_config(value) == data


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (torch.zeros(2), "Tensor"),
        (torch.nn.Linear(1, 1), "Linear"),
        ({1, 2}, "set"),
        ([object()], "object"),
    ],
)
def test_value_that_is_no_data_raises_with_its_type(value: object, name: str) -> None:
    with pytest.raises(TypeError, match=f"a {name} cannot be stored"):
        to_config(Holder(value))


@pytest.mark.parametrize(
    "instance",
    [LangevinSampler(3), MLPEnergy(width=4, depth=1), MLPVAE(latent_dim=3, width=4, depth=1)],
    ids=lambda instance: type(instance).__name__,
)
def test_init_args_survive_copy_and_pickle(instance: Configurable) -> None:
    copies = [
        copy.copy(instance),
        copy.deepcopy(instance),
        pickle.loads(pickle.dumps(instance)),
    ]
    assert [other.init_args for other in copies] == [instance.init_args] * 3


def test_copied_module_keeps_its_weights() -> None:
    energy = MLPEnergy(width=4, depth=1)
    points = torch.randn(3, 2)
    torch.testing.assert_close(copy.deepcopy(energy)(points), energy(points))


@pytest.mark.parametrize("kwargs", [{"steps": 3}, {"num_steps": 3, "step": 0.1}])
def test_unknown_argument_raises(kwargs: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        LangevinSampler(**kwargs)


def test_missing_argument_raises() -> None:
    with pytest.raises(TypeError, match="missing 1 required"):
        KeywordOnly()  # type: ignore[call-arg]
