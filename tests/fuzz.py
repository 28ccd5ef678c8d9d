"""Random damage to configs and checkpoints."""

import io
import json
import pickle
import random
import zipfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from safetensors import safe_open

Place = tuple[Any, Any]  # a dict or list, and a key or an index in it
EXECUTED = "executed"  # the file that hostile input would make
TAG = f'!!python/object/apply:os.system ["touch {EXECUTED}"]'
# No large numbers: who asks for 10^9 steps gets them.
VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 3, 0.5, -0.5, 1e-300, float("nan"), float("inf"), "", "null"),
    *("x" * 3000, "λ\x00\x1b[31m", "a b", "1", "nan", "[1", "{", "../x", ".", "*", [], {}, [[]]),
    *([1, 2], [None], {"a": 1}, {1: 2}, {"class_path": None}, {"init_args": {}}, "${oc.env:HOME}"),
    {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", EXECUTED]}},
    {"class_path": "os.system", "init_args": {"command": f"touch {EXECUTED}"}},
)
CLASSES = (
    *("os.system", "subprocess.Popen", "builtins.exec", "builtins.dict", "torch.nn.Linear"),
    *("no.such.thing", "vaebm", "vaebm.cli.main", "vaebm.samplers", "Sampler", "VAE", ".", ""),
    *("LangevinSampler", "HMCSampler", "MixtureSampler", "NoiseSpace", "DataSpace", "JointSpace"),
    *("MLPVAE", "ConvVAE", "NVAE", "MLPEnergy", "ConvEnergy", "ResidualEnergy", "ReplayBuffer"),
    *("VAEStage", "EBMStage", "ClassifierStage", "DigitsDataModule", "CIFAR10DataModule"),
    *("lightning.pytorch.callbacks.EarlyStopping", "lightning.pytorch.LightningModule"),
)


class Evil:
    """Touches a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(EXECUTED),)


def places(value: Any) -> Iterator[Place]:
    """Everything below a value that can be replaced."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def change(place: Place, chance: random.Random) -> None:
    """Replace, remove, rename or double one thing."""
    inside, key = place
    action = chance.choice(("value", "value", "value", "remove", "rename", "double"))
    if "class_path" in str(key) and chance.random() < 0.8:
        inside[key] = chance.choice(CLASSES)
    elif action == "remove":
        del inside[key]
    elif action == "rename" and isinstance(inside, dict):
        inside[f"{key}{chance.choice(('x', '.y', ' ', '+'))}"] = inside.pop(key)
    elif action == "double" and isinstance(inside, list):
        inside.insert(key, deepcopy(inside[key]))
    else:
        inside[key] = deepcopy(chance.choice(VALUES))


def changed_config(text: str, chance: random.Random) -> bytes:
    """A config with one to three random changes, of its settings or of its text."""
    if chance.random() < 0.7:
        settings = yaml.safe_load(text)
        for _ in range(chance.randint(1, 3)):
            change(chance.choice(list(places(settings))), chance)
        return yaml.safe_dump(settings, allow_unicode=True).encode()
    lines = text.splitlines()
    index = chance.randrange(len(lines))
    action = chance.choice(("remove", "double", "indent", "tag", "anchor", "bytes", "cut", "move"))
    if action == "remove":
        del lines[index]
    elif action == "double":
        lines.insert(index, lines[index])
    elif action == "indent":
        lines[index] = chance.choice((" ", "  ", "\t", "- ", "? ", "% ")) + lines[index]
    elif action == "tag":
        lines[index] = f"{lines[index].partition(':')[0]}: {TAG}"
    elif action == "anchor":
        lines[index] = lines[index].replace(": ", chance.choice((": &a ", ": *a ", ": !!set ")), 1)
    elif action == "move":
        lines.insert(chance.randrange(len(lines)), lines.pop(index))
    whole = "\n".join(lines).encode()
    return damaged(whole, chance) if action in ("bytes", "cut") else whole


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Bytes with some of them changed, or cut off, or with more at the end."""
    action = chance.choice(("flip", "flip", "cut", "zero", "append"))
    where = chance.randrange(len(content))
    if action == "cut":
        return content[:where]
    if action == "append":
        return content + chance.randbytes(chance.randint(1, 2000))
    result = bytearray(content)
    if action == "zero":
        result[where : where + chance.randint(1, 4096)] = b""
    for _ in range(chance.randint(1, 20)):
        result[chance.randrange(len(result))] = chance.randrange(256)
    return bytes(result)


def changed_checkpoint(content: bytes, chance: random.Random) -> bytes:
    """A checkpoint with damaged bytes, a hostile pickle in it, or random changes of its content."""
    action = chance.choice(("bytes", "evil", "nested", "content", "content", "content"))
    if action == "bytes":
        return damaged(content, chance)
    if action == "evil":
        return with_pickle(content, pickle.dumps({"state_dict": Evil()}, chance.randint(0, 5)))
    parts = torch.load(io.BytesIO(content), weights_only=True)
    if action == "nested":
        inside, key = chance.choice(list(places(parts)))
        inside[key] = Evil()
    else:
        for _ in range(chance.randint(1, 3)):
            place = chance.choice(list(places(parts)))
            if isinstance(place[0][place[1]], torch.Tensor):
                change_tensor(place, chance)
            else:
                change(place, chance)
    return saved(parts)


def changed_export(path: Path, chance: random.Random) -> bytes:
    """A safetensors file with damaged bytes, or random changes of its settings or tensors."""
    content = path.read_bytes()
    if chance.random() < 0.4:
        return damaged(content, chance)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    weights = safetensors.torch.load(content)
    if chance.random() < 0.3:
        name = chance.choice(list(weights))
        change_tensor((weights, name), chance)
        weights[name] = torch.zeros(3) if weights[name].is_meta else weights[name].contiguous()
    else:
        name = chance.choice([key for key in metadata if key != "format"])
        settings = {name: json.loads(metadata[name])}
        change(chance.choice(list(places(settings))), chance)
        metadata[name] = json.dumps(settings.get(name), default=str)
    return safetensors.torch.save(weights, metadata)


def change_tensor(place: Place, chance: random.Random) -> None:
    """Another shape, type or content."""
    inside, key = place
    tensor = inside[key]
    number = torch.full_like(tensor, torch.nan) if tensor.is_floating_point() else tensor + 1
    others = (
        *(number, tensor[None], tensor.flatten()[:0], torch.tensor(0.0), tensor.double()),
        *(tensor.bool(), tensor.to("meta"), tensor.expand(2, *tensor.shape)),
    )
    inside[key] = chance.choice(others)


def saved(content: Any) -> bytes:
    """What ``torch.save`` writes."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def with_pickle(content: bytes, pickled: bytes) -> bytes:
    """A checkpoint's archive with another pickle in it."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("data.pkl") else old.read(name))
    return file.getvalue()
