"""Registries of classes and the plug-ins of other packages."""

import importlib
import importlib.util
import sys
import tomllib
import types
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from vaebm.errors import UsageError
from vaebm.registry import Registry, find_plugins

GROUP = "vaebm.animals"
PROJECT = Path(__file__).parents[1] / "pyproject.toml"


class Animal:
    """Base class of the registry under test."""


class Cat(Animal):
    """The built-in member."""


class Dog(Animal):
    """What a plug-in offers."""


class Stone:
    """No animal."""


@pytest.fixture
def animals() -> Registry[Animal]:
    registry: Registry[Animal] = Registry(GROUP, Animal)
    registry.register(Cat)
    return registry


@pytest.fixture
def plugin_module(monkeypatch: pytest.MonkeyPatch) -> str:
    """An importable module with a good class, a clashing one and a stranger."""
    module = types.ModuleType("animal_plugin")
    clash = type("Cat", (Animal,), {"__module__": "animal_plugin"})
    module.__dict__.update(Dog=Dog, Cat=clash, Stone=Stone, number=3)
    monkeypatch.setitem(sys.modules, "animal_plugin", module)
    return "animal_plugin"


def point(name: str, module: str) -> EntryPoint:
    return EntryPoint(name, f"{module}:{name}", GROUP)


def test_register_returns_the_class_unchanged(animals: Registry[Animal]) -> None:
    assert animals.register(Dog) is Dog


def test_lookup_by_class_name_gives_the_class(animals: Registry[Animal]) -> None:
    assert animals["Cat"] is Cat


def test_names_are_sorted(animals: Registry[Animal]) -> None:
    for name in ("Zebra", "Ant"):
        animals.register(type(name, (Animal,), {}))
    assert animals.names() == ["Ant", "Cat", "Zebra"]


def test_register_accepts_the_same_class_twice(animals: Registry[Animal]) -> None:
    animals.register(Cat)
    assert animals.names() == ["Cat"]


def test_register_refuses_another_class_of_the_same_name(animals: Registry[Animal]) -> None:
    clash = type("Cat", (Animal,), {"__module__": "elsewhere"})
    with pytest.raises(ValueError, match=r"Cat already, from tests\.test_registry.*elsewhere"):
        animals.register(clash)


def test_lookup_names_the_closest_match_when_the_name_is_unknown(
    animals: Registry[Animal],
) -> None:
    animals.register(Dog)
    with pytest.raises(UsageError, match=r"did you mean Cat\? Known: Cat, Dog"):
        animals["Cta"]


def test_lookup_guesses_nothing_when_no_name_is_close(animals: Registry[Animal]) -> None:
    with pytest.raises(UsageError, match=r"unknown name 'Qqqqqq'") as caught:
        animals["Qqqqqq"]
    assert "did you mean" not in str(caught.value)


def test_unknown_name_is_one_line(animals: Registry[Animal]) -> None:
    with pytest.raises(UsageError) as caught:
        animals["Cta"]
    assert "\n" not in str(caught.value)


def test_plugin_is_registered(animals: Registry[Animal], plugin_module: str) -> None:
    animals.load_plugins([point("Dog", plugin_module)])
    assert animals["Dog"] is Dog


def test_load_plugins_returns_what_it_registered(
    animals: Registry[Animal], plugin_module: str
) -> None:
    loaded = animals.load_plugins([point("Dog", plugin_module)])
    assert [(plugin.name, plugin.cls) for plugin in loaded] == [("Dog", Dog)]


def test_broken_plugin_gives_one_warning_that_names_it(animals: Registry[Animal]) -> None:
    with pytest.warns(RuntimeWarning, match="plug-in Dog .*ModuleNotFoundError") as caught:
        animals.load_plugins([point("Dog", "no_such_package_here")])
    assert len(caught) == 1


def test_plugin_that_raises_on_import_gives_a_warning(
    animals: Registry[Animal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "raising_plugin.py").write_text("raise RuntimeError('half installed')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(RuntimeWarning, match="plug-in Dog .*RuntimeError: half installed"):
        animals.load_plugins([point("Dog", "raising_plugin")])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_broken_plugin_leaves_the_others_working(
    animals: Registry[Animal], plugin_module: str
) -> None:
    broken = point("Bird", "no_such_package_here")  # sorted before Dog
    animals.load_plugins([point("Dog", plugin_module), broken])
    assert animals.names() == ["Cat", "Dog"]


def test_clashing_plugin_is_warned_about(animals: Registry[Animal], plugin_module: str) -> None:
    with pytest.warns(RuntimeWarning, match="plug-in Cat .*left out.*already"):
        assert animals.load_plugins([point("Cat", plugin_module)]) == []


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_builtin_wins_over_a_clashing_plugin(animals: Registry[Animal], plugin_module: str) -> None:
    animals.load_plugins([point("Cat", plugin_module)])
    assert animals["Cat"] is Cat


@pytest.mark.parametrize("name", ["Stone", "number"])
def test_plugin_that_is_no_subclass_is_left_out(
    animals: Registry[Animal], plugin_module: str, name: str
) -> None:
    with pytest.warns(RuntimeWarning, match=f"plug-in {name} .*no subclass of Animal"):
        animals.load_plugins([point(name, plugin_module)])
    assert animals.names() == ["Cat"]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugin_module: str) -> None:
    """Metadata of two packages on the path: a stranger's and one that bears our own name."""
    for package, name in (("zoo", "Dog"), ("vaebm", "Stone")):
        folder = tmp_path / f"{package}-2.5.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 2.5\n")
        declaration = f"[{GROUP}]\n{name} = {plugin_module}:{name}\n"
        (folder / "entry_points.txt").write_text(declaration)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()


@pytest.mark.usefixtures("install")
def test_plugins_of_installed_packages_are_found_with_their_origin() -> None:
    assert [(plugin.name, plugin.origin) for plugin in find_plugins(GROUP)] == [("Dog", "zoo 2.5")]


def declared(group: str) -> dict[str, str]:
    project = tomllib.loads(PROJECT.read_text())["project"]
    return dict(project["entry-points"][group])


def builtins_of(group: str) -> dict[str, type]:
    """Registered classes of this package by name; other packages' may be registered too."""
    if importlib.util.find_spec(group) is None:
        pytest.skip(f"{group} does not exist yet")
    registry = getattr(importlib.import_module(group), group.rpartition(".")[2])
    classes = {name: registry[name] for name in registry.names()}
    return {n: cls for n, cls in classes.items() if cls.__module__.startswith("vaebm.")}


GROUPS = ["vaebm.samplers", "vaebm.spaces", "vaebm.models", "vaebm.datamodules"]


@pytest.mark.parametrize("group", GROUPS)
def test_declared_entry_points_are_the_registered_classes(group: str) -> None:
    assert sorted(declared(group)) == sorted(builtins_of(group))


@pytest.mark.parametrize("group", GROUPS)
def test_declared_paths_import_to_the_registered_classes(group: str) -> None:
    classes = builtins_of(group)
    for name, value in declared(group).items():
        assert EntryPoint(name, value, group).load() is classes[name]


def test_declared_groups_are_the_known_ones() -> None:
    project = tomllib.loads(PROJECT.read_text())["project"]
    assert sorted(project["entry-points"]) == sorted(GROUPS)
