"""A command line as a list of words, before anything parses it."""


def options_of(args: list[str], name: str) -> list[str]:
    """All values of ``--name`` on a command line."""
    found = []
    for option, following in zip(args, [*args[1:], ""], strict=True):
        if option == f"--{name}" or (name == "config" and option == "-c"):
            found.append(following)
        elif option.startswith(f"--{name}="):
            found.append(option.partition("=")[2])
    return found


def configs_first(args: list[str]) -> list[str]:
    """A command line with its configs before all other options, so that options override them."""
    head, rest = args[:1], args[1:]
    if not head or head[0].startswith("-"):
        return args
    configs: list[str] = []
    others: list[str] = []
    while rest:
        size = 2 if rest[0] in ("-c", "--config") else 1
        is_config = size == 2 or rest[0].startswith("--config=")
        (configs if is_config else others).extend(rest[:size])
        rest = rest[size:]
    return [*head, *configs, *others]


def checkpoint_of(args: list[str]) -> str | None:
    """The value of ``--ckpt_path`` on a command line, the last one if there are several."""
    found = next(reversed(options_of(args, "ckpt_path")), None)
    return None if found == "null" else found
