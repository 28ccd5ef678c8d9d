"""Registries of classes by name, and the entry points through which other packages add theirs."""

import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, NamedTuple, TypeVar

from vaebm.errors import UsageError

T = TypeVar("T")

PACKAGE = "vaebm"


class Plugin(NamedTuple):
    """A class that another package offers: its name, the package and version, the class."""

    name: str
    origin: str
    cls: type


def origin(entry: EntryPoint) -> str:
    """Name and version of the package that declares `entry`."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown package"


def is_builtin(entry: EntryPoint) -> bool:
    """Whether `entry` is declared by this package itself."""
    return entry.dist is not None and entry.dist.name == PACKAGE


def find_plugins(group: str, entries: Iterable[EntryPoint] | None = None) -> list[Plugin]:
    """Import what other packages declare in an entry-point group.

    A plug-in that fails to import must not take the others with it: it becomes one warning that
    names it.

    Args:
        group: Entry-point group, e.g. ``vaebm.samplers``.
        entries: Entry points to read instead of those of the installed packages.

    Returns:
        The plug-ins that could be imported, by name.
    """
    plugins = []
    for entry in sorted(entry_points(group=group) if entries is None else entries):
        if is_builtin(entry):
            continue
        try:
            plugins.append(Plugin(entry.name, origin(entry), entry.load()))
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            _warn(f"plug-in {entry.name} ({origin(entry)}, {group}) cannot be used: {reason}")
    return plugins


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=3)


class Registry(Generic[T]):
    """Classes of one kind by class name, which is also their entry point and YAML ``class_path``.

    Args:
        group: Entry-point group in which other packages declare theirs.
        base: Class that every member derives from.
    """

    def __init__(self, group: str, base: type[T]) -> None:
        self.group = group
        self.base = base
        self._classes: dict[str, type[T]] = {}

    def register(self, cls: type[T]) -> type[T]:
        """Class decorator: add `cls` under its class name.

        Raises:
            ValueError: If another class has the name already.
        """
        known = self._classes.setdefault(cls.__name__, cls)
        if known is not cls:
            raise ValueError(
                f"{self.group} has a {cls.__name__} already, from {known.__module__}; "
                f"the one from {cls.__module__} needs another name"
            )
        return cls

    def names(self) -> list[str]:
        """Registered class names, sorted."""
        return sorted(self._classes)

    def __getitem__(self, name: str) -> type[T]:
        if name in self._classes:
            return self._classes[name]
        raise UsageError(unknown_name(name, self.names(), self.group))

    def load_plugins(self, entries: Iterable[EntryPoint] | None = None) -> list[Plugin]:
        """Register the classes of other packages; a broken or clashing one is warned about.

        Args:
            entries: Entry points to read instead of those of the installed packages.

        Returns:
            The plug-ins that are now registered.
        """
        return [p for p in find_plugins(self.group, entries) if self._accept(p)]

    def _accept(self, plugin: Plugin) -> bool:
        try:
            if not (isinstance(plugin.cls, type) and issubclass(plugin.cls, self.base)):
                raise TypeError(f"it is no subclass of {self.base.__name__}")
            self.register(plugin.cls)
        except (TypeError, ValueError) as error:
            _warn(f"plug-in {plugin.name} ({plugin.origin}, {self.group}) is left out: {error}")
            return False
        return True


def unknown_name(name: str, known: Iterable[str], kind: str) -> str:
    """One line for a name that does not exist: the closest match, then all known names."""
    known = sorted(known)
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f", did you mean {close[0]}?" if close else "."
    return f"unknown name {name!r} in {kind}{hint} Known: {', '.join(known) or 'none'}"
