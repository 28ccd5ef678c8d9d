"""Published checkpoints of every kind of architecture give what their reference computes."""

import math
import pickle
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.official_files import arguments, content, write
from tests.official_nvae import TABLES, Official, c5, log_gaussian, log_mixture
from vaebm.checkpoints.reading import load_vae, read_checkpoint
from vaebm.convert import convert, load_nvae
from vaebm.errors import DataError, UsageError
from vaebm.models import NVAE
from vaebm.official.arguments import TRAINING

KINDS: dict[str, dict[str, Any]] = {
    **{f"table {name}": {"arch_instance": name, "num_channels_enc": 16} for name in TABLES},
    "scales": {"num_latent_scales": 3, "num_groups_per_scale": 2},
    "adaptive groups": {
        "num_latent_scales": 3,
        "num_groups_per_scale": 5,
        "ada_groups": True,
        "min_groups_per_scale": 2,
    },
    "flows": {"num_nf": 2, "num_latent_scales": 2},
    "no res_dist": {"res_dist": False},
    "no squeeze-excitation": {"use_se": False},
    "widths that differ": {"num_channels_enc": 12, "num_channels_dec": 20},
    "cells": {"num_cell_per_cond_enc": 2, "num_cell_per_cond_dec": 3, "num_preprocess_cells": 3},
    "blocks": {"num_preprocess_blocks": 2, "num_postprocess_blocks": 2, "num_postprocess_cells": 1},
    "celeba_64": {"dataset": "celeba_64", "num_preprocess_blocks": 2, "num_postprocess_blocks": 2},
    "lsun_church_64": {"dataset": "lsun_church_64", "num_latent_scales": 2},
    "5 bits": {"num_x_bits": 5},
    "logistic mixture": {"num_mixture_dec": 3},
    "logistic mixture of 5 bits": {"num_mixture_dec": 2, "num_x_bits": 5},
    "mnist": {"dataset": "mnist"},
    "omniglot": {"dataset": "omniglot", "num_nf": 1},
    "one group": {"num_groups_per_scale": 1},
    "one group with flows": {"num_groups_per_scale": 1, "num_nf": 1, "res_dist": False},
    "old fields": {"ada_groups": None, "min_groups_per_scale": None},
    "old mixture": {"num_mixture_dec": None, "num_latent_per_group": 2},
}


def random_image(args: Namespace, vae: NVAE, generator: torch.Generator) -> Tensor:
    """Images of 8 bits; binary ones where the likelihood is."""
    image = torch.randint(256, (2, *vae.image_shape), generator=generator).double() / 255
    return image.round() if args.dataset in ("mnist", "omniglot") else image


@pytest.fixture(params=KINDS, scope="module")
def models(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Official, NVAE]:
    """The same random model, as its reference reads it and converted, in float64."""
    args = arguments(**KINDS[request.param])
    whole = content(args)
    vae = load_nvae(write(tmp_path_factory.mktemp("published"), whole)).double()
    weights = {name: value.double() for name, value in whole["state_dict"].items()}
    complete = arguments(
        **{"ada_groups": False, "min_groups_per_scale": 1, "num_mixture_dec": 10} | vars(args)
    )
    return Official(weights, complete), vae


@pytest.fixture
def case(models: tuple[Official, NVAE]) -> tuple[Official, NVAE, torch.Generator]:
    """Both models and a source of inputs."""
    return *models, torch.Generator().manual_seed(1)


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_every_published_weight_is_used(case: tuple[Official, NVAE, torch.Generator]) -> None:
    official, vae, generator = case
    noise = [torch.randn(1, *s, generator=generator).double() for s in vae.noise_shapes[:-1]]
    official.encode(random_image(official.a, vae, generator)[:1], noise)
    unused = set(official.w) - official.used
    assert unused <= ({"prior_ftr0"} if official.total == 1 else set())


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_generator_is_that_of_the_reference(
    case: tuple[Official, NVAE, torch.Generator], temperature: float
) -> None:
    official, vae, generator = case
    eps = torch.randn(2, vae.noise_dim, generator=generator).double()
    logits, z, log_pz = official.decode(list(vae.split(eps)[:-1]), temperature)
    generated = vae.generate(eps, temperature=temperature)
    for ours, theirs in zip(generated.z, z, strict=True):
        close(ours, theirs)
    close(generated.log_pz, log_pz)
    decoded = vae.decode(eps, temperature=temperature)
    if official.a.dataset in ("mnist", "omniglot"):
        close(decoded.mean, logits.sigmoid())
        log_px = -torch.nn.functional.binary_cross_entropy_with_logits(
            logits, decoded.image, reduction="none"
        )
    elif official.a.num_mixture_dec == 1:
        mean, log_scale = logits.chunk(2, 1)
        sample = c5(mean) + (c5(log_scale).exp() + 0.01) * vae.split(eps)[-1]
        close(decoded.image, sample.clamp(-1, 1) / 2 + 0.5)
        close(decoded.mean, (c5(mean) + 1) / 2)
        log_px = log_gaussian(logits, decoded.image, floor=True)
    else:
        log_px = log_mixture(logits, decoded.image, official.a.num_x_bits)
    close(decoded.log_joint, log_pz + log_px.flatten(1).sum(1))


def test_bound_is_that_of_the_reference(case: tuple[Official, NVAE, torch.Generator]) -> None:
    official, vae, generator = case
    image = random_image(official.a, vae, generator)
    bits = official.a.num_x_bits
    seen = image if bits == 8 else (image * 255 / 2 ** (8 - bits)).floor() / (2**bits - 1)
    noise = torch.randn(2, vae.latent_dim, generator=generator).double()
    logits, kl, log_q, log_p = official.encode(seen, list(vae.split_latents(noise)))
    if official.a.dataset in ("mnist", "omniglot"):
        log_px = -torch.nn.functional.binary_cross_entropy_with_logits(
            logits, seen, reduction="none"
        )[..., 2:-2, 2:-2]
    elif official.a.num_mixture_dec == 1:
        log_px = log_gaussian(logits, seen, floor=False)
    else:
        log_px = log_mixture(logits, seen, bits)
    log_px = log_px.flatten(1).sum(1)
    terms = vae.elbo(image, noise=noise)
    close(terms.kl, kl)
    close(terms.log_px, log_px)
    close(vae.log_weight(image, noise=noise), log_px - log_q + log_p)
    close(vae.elbo(seen, noise=noise).log_px, terms.log_px)


# The converted file


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return write(tmp_path, content(arguments(num_nf=1)))


def test_converted_checkpoint_gives_the_same_model(published: Path, tmp_path: Path) -> None:
    convert(published, tmp_path / "nvae.ckpt")
    vae, expected = load_vae(tmp_path / "nvae.ckpt").eval(), load_nvae(published)
    for name, value in expected.state_dict().items():
        if not name.startswith("spectral."):  # its start is random
            assert torch.equal(vae.state_dict()[name], value)
    eps = torch.randn(2, vae.noise_dim)
    assert torch.equal(vae.decode(eps).image, expected.decode(eps).image)


def test_converted_checkpoint_keeps_the_settings_of_the_training(tmp_path: Path) -> None:
    args = arguments(weight_decay_norm=1e-2, weight_decay_norm_anneal=True, epochs=200)
    convert(write(tmp_path, content(args)), tmp_path / "nvae.ckpt")
    settings = read_checkpoint(tmp_path / "nvae.ckpt")["hyper_parameters"]
    expected = {
        "optimizer": "adamax",
        "optimizer_eps": 1e-3,
        "lr": 1e-2,
        "lr_final": 1e-4,
        "warmup_portion": 5 / 200,
        "kl_balance": True,
        "penalty_weight": 1e-2,
        "penalty_weight_init": 10.0,
    }
    assert {name: settings[name] for name in expected} == expected


def test_converted_weights_do_not_share_the_files_storage(tmp_path: Path) -> None:
    whole = content(arguments())
    names = [n for n, v in whole["state_dict"].items() if v.shape == (8,) and v.is_floating_point()]
    stacked = torch.stack([whole["state_dict"][name] for name in names])
    large = torch.cat([stacked, torch.zeros(1000, 8)])
    for row, name in enumerate(names):
        whole["state_dict"][name] = large[row]
    convert(write(tmp_path, whole), tmp_path / "nvae.ckpt")
    weights = read_checkpoint(tmp_path / "nvae.ckpt")["state_dict"]
    assert all(
        v.untyped_storage().nbytes() == v.numel() * v.element_size() for v in weights.values()
    )


def test_file_of_the_time_before_zip_is_read(tmp_path: Path) -> None:
    whole = content(arguments())
    path = write(tmp_path, whole, _use_new_zipfile_serialization=False)
    eps = torch.randn(1, load_nvae(path).noise_dim)
    (tmp_path / "new").mkdir()
    new = load_nvae(write(tmp_path / "new", whole))
    assert torch.equal(load_nvae(path).decode(eps).image, new.decode(eps).image)


def test_file_without_duplicated_keys_is_read(tmp_path: Path) -> None:
    whole = content(arguments())
    whole["state_dict"] = {
        k: v for k, v in whole["state_dict"].items() if not k.endswith("_normalized")
    }
    assert load_nvae(write(tmp_path, whole)).training is False


def test_last_layer_of_a_flow_cell_may_stand_below_its_others(tmp_path: Path) -> None:
    whole = content(arguments(num_nf=1))
    whole["state_dict"] = {
        key.replace(".mu.", ".conv.mu."): value for key, value in whole["state_dict"].items()
    }
    load_nvae(write(tmp_path, whole))


def test_fields_without_a_value_count_as_missing(tmp_path: Path) -> None:
    whole = content(arguments())
    whole["args"].ada_groups = None
    load_nvae(write(tmp_path, whole))


def test_file_that_says_nothing_of_its_training_is_converted(tmp_path: Path) -> None:
    whole = content(arguments())
    for name in TRAINING:
        delattr(whole["args"], name)
    convert(write(tmp_path, whole), tmp_path / "nvae.ckpt")
    settings = read_checkpoint(tmp_path / "nvae.ckpt")["hyper_parameters"]
    assert (settings["lr"], settings["penalty_weight"]) == (1e-2, 0.0)


def test_partial_list_of_operators_is_enough(tmp_path: Path) -> None:
    whole = content(arguments(), arch_instance={"normal_dec": ("mconv_e6k5g0",)})
    load_nvae(write(tmp_path, whole))


def test_double_precision_of_a_file_is_kept(tmp_path: Path) -> None:
    whole = content(arguments())
    whole["state_dict"] = {
        k: v.double() if v.is_floating_point() else v for k, v in whole["state_dict"].items()
    }
    whole["state_dict"]["stem.bias"] += 1e-12
    vae = load_nvae(write(tmp_path, whole))
    assert torch.equal(vae.encoder.stem.bias, whole["state_dict"]["stem.bias"])


def test_weights_of_half_precision_are_widened(tmp_path: Path) -> None:
    whole = content(arguments())
    whole["state_dict"] = {
        k: v.half() if v.is_floating_point() else v for k, v in whole["state_dict"].items()
    }
    assert load_nvae(write(tmp_path, whole)).encoder.stem.bias.dtype == torch.float32


# Files that are refused, each with what is wrong


class Evil:
    """Touches a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


def broken(tmp_path: Path, change: Any) -> str:
    """What is said of a published file after a change."""
    whole = content(arguments())
    change(whole)
    with pytest.raises(DataError) as caught:
        load_nvae(write(tmp_path, whole))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_key_is_named(tmp_path: Path) -> None:
    assert "missing keys: stem.bias" in broken(tmp_path, lambda w: w["state_dict"].pop("stem.bias"))


def test_left_over_key_is_named(tmp_path: Path) -> None:
    change = lambda w: w["state_dict"].update({"enc_kv.0": torch.zeros(1)})  # noqa: E731
    assert "left-over keys: enc_kv.0" in broken(tmp_path, change)


def test_many_keys_are_counted(tmp_path: Path) -> None:
    change = lambda w: w["state_dict"].clear()  # noqa: E731
    assert " more" in broken(tmp_path, change)


def test_entry_of_another_shape_is_named(tmp_path: Path) -> None:
    change = lambda w: w["state_dict"].update({"stem.bias": torch.zeros(9)})  # noqa: E731
    assert "stem.bias is of shape (9,), but (8,) is due" in broken(tmp_path, change)


def test_nan_is_named(tmp_path: Path) -> None:
    change = lambda w: w["state_dict"]["stem.bias"].fill_(math.nan)  # noqa: E731
    assert "stem.bias holds NaN" in broken(tmp_path, change)


def test_duplicate_that_differs_is_named(tmp_path: Path) -> None:
    def change(whole: dict[str, Any]) -> None:
        key = next(k for k in whole["state_dict"] if k.endswith("_normalized"))
        whole["state_dict"][key] = whole["state_dict"][key] + 1

    assert "is not the same as" in broken(tmp_path, change)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("arch_instance", "res_mbconv9", "res_mbconv9"),
        ("arch_instance", 3, "arch_instance=3, but str is due"),
        ("dataset", "imagenet", "dataset='imagenet'"),
        ("num_latent_scales", "3", "num_latent_scales='3', but int is due"),
        ("num_latent_scales", 9, "cannot be halved"),
        ("num_latent_scales", 10**9, "num_latent_scales=1000000000"),
        ("num_groups_per_scale", 10**9, "more cells than it has weights"),
        ("num_channels_enc", 10**6, "is of shape"),
        ("num_nf", True, "num_nf=True, but int is due"),
        ("num_postprocess_blocks", 2, "num_postprocess_blocks"),
        ("num_latent_per_group", 0, "latent_channels is 0"),
    ],
)
def test_argument_that_makes_no_sense_is_named(
    tmp_path: Path, field: str, value: Any, message: str
) -> None:
    assert message in broken(tmp_path, lambda w: setattr(w["args"], field, value))


def test_missing_argument_is_named(tmp_path: Path) -> None:
    change = lambda w: delattr(w["args"], "num_latent_per_group")  # noqa: E731
    assert "lack num_latent_per_group" in broken(tmp_path, change)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (3, torch.zeros(1)),
        ("stem.bias", 3.0),
        ("stem.bias", torch.zeros(8).to_sparse()),
        ("stem.bias", torch.zeros(8, dtype=torch.complex64)),
    ],
)
def test_entry_that_is_no_plain_tensor_is_named(tmp_path: Path, key: Any, value: Any) -> None:
    change = lambda w: w["state_dict"].update({key: value})  # noqa: E731
    assert f"{key}, which is no plain tensor" in broken(tmp_path, change)


def test_operators_that_are_not_those_of_the_architecture_are_named(tmp_path: Path) -> None:
    change = lambda w: w["arch_instance"].update(normal_dec=["mconv_e9k9g0"])  # noqa: E731
    assert "normal_dec=['mconv_e9k9g0']" in broken(tmp_path, change)


def test_code_in_a_file_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "is refused" in broken(tmp_path, lambda w: w.update(optimizer=Evil()))
    assert not Path("executed").exists()


def test_namespace_with_code_in_it_is_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "is refused" in broken(tmp_path, lambda w: setattr(w["args"], "save", Evil()))
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("whole", "message"),
    [
        ({"model": {}, "optimizer": {}}, "energy network"),
        ({"state_dict": {}, "hyper_parameters": {}}, "already"),
        ({"state_dict": {}}, "args or state_dict missing"),
        ([1, 2], "args or state_dict missing"),
        ({"args": Namespace(), "state_dict": {}}, "lack dataset"),
    ],
)
def test_file_of_another_kind_is_refused(tmp_path: Path, whole: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_nvae(write(tmp_path, whole))


@pytest.mark.parametrize("length", [0, 10, 1000, -100])
@pytest.mark.parametrize("zipped", [True, False])
def test_file_that_is_cut_off_is_refused(published: Path, length: int, zipped: bool) -> None:
    whole = content(arguments())
    path = write(published.parent, whole, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match="damaged"):
        load_nvae(path)


def test_plain_pickle_with_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps({"args": Evil()}))
    with pytest.raises(DataError):
        load_nvae(path)
    assert not Path("executed").exists()


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load_nvae(tmp_path / "nothing.pt")


def test_folder_is_refused_with_the_files_in_it(tmp_path: Path) -> None:
    (tmp_path / "mine.ckpt").touch()
    with pytest.raises(UsageError, match=r"is a folder.*that folder has mine\.ckpt"):
        load_nvae(tmp_path)


def test_file_that_is_there_is_not_overwritten(published: Path, tmp_path: Path) -> None:
    output = tmp_path / "mine.ckpt"
    output.write_text("precious")
    with pytest.raises(UsageError, match="is there already"):
        convert(published, output)
    assert output.read_text() == "precious"


def test_output_below_a_file_is_refused(published: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a file, but a folder is due"):
        convert(published, published / "nvae.ckpt")


def test_refused_file_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        convert(tmp_path / "nothing.pt", tmp_path / "new" / "nvae.ckpt")
    assert not (tmp_path / "new").exists()


def test_failed_conversion_leaves_nothing_behind(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space"):
        convert(published, tmp_path / "new" / "nvae.ckpt")
    assert not list((tmp_path / "new").iterdir())
