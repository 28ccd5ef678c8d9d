"""NVAE as its reference describes it, function by function over the published names.

Nothing here uses the package: it is what the converted models are compared with.
"""

from argparse import Namespace
from collections.abc import Callable
from math import log, pi

import torch
import torch.nn.functional as F
from torch import Tensor

TABLES = {
    "res_mbconv": ("R3 R3", "M6", "R3 R3", "M3"),
    "res_bnswish": ("R3 R3", "R3 R3", "R3 R3", "R3 R3"),
    "res_bnelu": ("B3 B3", "B3 B3", "B3 B3", "B3 B3"),
    "res_elu": ("E3 E3", "E3 E3", "E3 E3", "E3 E3"),
    "mbconv_sep": ("M6", "M6", "M3", "M3"),
    "mbconv_sep11": ("M6k11", "M6k11", "M3", "M3"),
    "mbconv_res": ("M6", "R3 R3", "M3", "R3 R3"),
    "mbconv_den": ("M6", "M6", "M3g8", "M3g8"),
    "res53_mbconv": ("R5 R3", "M6", "R5 R3", "M3"),
    "res35_mbconv": ("R3 R5", "M6", "R3 R5", "M3"),
    "res55_mbconv": ("R5 R5", "M6", "R5 R5", "M3"),
}
OFFICIAL = {
    "R3": "res_bnswish",
    "R5": "res_bnswish5",
    "B3": "res_bnelu",
    "E3": "res_elu",
    "M6": "mconv_e6k5g0",
    "M3": "mconv_e3k5g0",
    "M6k11": "mconv_e6k11g0",
    "M3g8": "mconv_e3k5g8",
}

Source = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def c5(value: Tensor) -> Tensor:
    return 5 * torch.tanh(value / 5)


def swish(value: Tensor) -> Tensor:
    return value * torch.sigmoid(value)


def log_normal(value: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return -0.5 * ((value - mean) / scale) ** 2 - 0.5 * log(2 * pi) - scale.log()


class Official:
    """A published model in evaluation mode, read off its weights and arguments."""

    def __init__(self, weights: dict[str, Tensor], args: Namespace) -> None:
        self.w = weights
        self.a = args
        self.used: set[str] = set()
        self.tables = dict(
            zip(("enc", "dec", "pre", "post"), TABLES[args.arch_instance], strict=True)
        )
        groups, n = [], args.num_groups_per_scale
        for _ in range(args.num_latent_scales):
            groups.append(n)
            n = max(args.min_groups_per_scale, n // 2) if args.ada_groups else n
        self.groups = groups  # highest resolution first
        self.total = sum(groups)

    def get(self, name: str) -> Tensor:
        self.used.add(name)
        return self.w[name]

    # Layers

    def conv(self, x: Tensor, name: str, *, padding: int = 0, stride: int = 1, **kw: int) -> Tensor:
        weight = self.get(f"{name}.weight")
        if f"{name}.log_weight_norm" in self.w:
            norm = weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            weight = self.get(f"{name}.log_weight_norm").exp() * weight / (norm + 1e-5)
        else:
            self.used.add(f"{name}.weight_normalized")
        bias = self.get(f"{name}.bias") if f"{name}.bias" in self.w else None
        return F.conv2d(x, weight, bias, stride, padding, **kw)

    def bn(self, x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            self.get(f"{name}.{part}").view(1, -1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        self.used.add(f"{name}.num_batches_tracked")
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def op(self, x: Tensor, name: str, kind: str, stride: int) -> Tensor:
        down, up = max(stride, 1), stride == -1
        if kind[0] == "M":
            first = int(up)
            x = F.interpolate(x, scale_factor=2) if up else x
            x = self.bn(x, f"{name}.conv.{first}.bn")
            x = self.conv(x, f"{name}.conv.{first + 1}.conv.0")
            x = swish(self.bn(x, f"{name}.conv.{first + 1}.conv.1"))
            groups = 8 if kind.endswith("g8") else x.shape[1]
            side = 11 if "k11" in kind else 5
            spatial = f"{name}.conv.{first + 2}"
            x = self.conv(x, f"{spatial}.conv.0", padding=side // 2, stride=down, groups=groups)
            x = swish(self.bn(x, f"{spatial}.conv.1"))
            x = self.conv(x, f"{name}.conv.{first + 3}")
            return self.bn(x, f"{name}.conv.{first + 4}.bn")
        if kind[0] == "R":
            x = swish(self.bn(x, f"{name}.bn_act"))
        else:
            x = F.elu(self.bn(x, f"{name}.bn.bn") if kind[0] == "B" else x)
        x = F.interpolate(x, scale_factor=2) if up else x
        dilation = 2 if kind == "R5" else 1
        return self.conv(x, f"{name}.conv_0", padding=dilation, stride=down, dilation=dilation)

    def cell(self, x: Tensor, name: str, table: str, stride: int = 1) -> Tensor:
        branch = x
        for i, kind in enumerate(self.tables[table].split()):
            branch = self.op(branch, f"{name}._ops.{i}", kind, stride if i == 0 else 1)
        if self.a.use_se:
            gate = branch.mean((2, 3))
            gate = F.relu(
                F.linear(gate, *map(self.get, (f"{name}.se.se.0.weight", f"{name}.se.se.0.bias")))
            )
            gate = F.linear(
                gate, *map(self.get, (f"{name}.se.se.2.weight", f"{name}.se.se.2.bias"))
            )
            branch = branch * gate.sigmoid()[:, :, None, None]
        if stride == 2:
            u = swish(x)
            views = [u, u[:, :, 1:, 1:], u[:, :, :, 1:], u[:, :, 1:, :]]
            skip = torch.cat(
                [self.conv(v, f"{name}.skip.conv_{i + 1}", stride=2) for i, v in enumerate(views)],
                1,
            )
        elif stride == -1:
            skip = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            skip = self.conv(skip, f"{name}.skip.1")
        else:
            skip = x
        return skip + 0.1 * branch

    def flow(self, z: Tensor, group: int) -> Tensor:
        for pair in range(self.a.num_nf):
            for cell in (1, 2):
                name = f"nf_cells.{group * self.a.num_nf + pair}.cell{cell}"
                h = self.masked(z, f"{name}.conv.convz.0", cell == 2, itself=False)
                h = self.masked(F.elu(h), f"{name}.conv.convz.2", cell == 2, groups=h.shape[1])
                z = z - self.masked(F.elu(F.elu(h)), f"{name}.mu.conv_0", cell == 2)
        return z

    def masked(
        self, x: Tensor, name: str, mirror: bool, itself: bool = True, groups: int = 1
    ) -> Tensor:
        weight = self.get(f"{name}.weight")
        outs, ins, k, _ = weight.shape
        mask = torch.zeros_like(weight)
        m = (k - 1) // 2
        for o in range(outs):
            for i in range(ins):
                mask[o, i, :m] = 1
                mask[o, i, m, :m] = 1
                if groups > 1:
                    own, seen = 0, 0
                elif outs >= ins:
                    own, seen = o // (outs // ins), i
                else:
                    own, seen = o, i // (ins // outs)
                mask[o, i, m, m] = float(seen < own or (itself and seen == own))
        mask = mask.flip(2, 3) if mirror else mask
        weight = weight * mask
        norm = weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        weight = self.get(f"{name}.log_weight_norm").exp() * weight / (norm + 1e-5)
        bias = self.get(f"{name}.bias") if f"{name}.bias" in self.w else None
        return F.conv2d(x, weight, bias, padding=m, groups=groups)

    # Networks

    def features(self, image: Tensor) -> list[Tensor]:
        s = self.conv(2 * image - 1, "stem", padding=1)
        index = 0
        for _ in range(self.a.num_preprocess_blocks):
            for cell in range(self.a.num_preprocess_cells):
                last = cell == self.a.num_preprocess_cells - 1
                s = self.cell(s, f"pre_process.{index}", "pre", 2 if last else 1)
                index += 1
        stored, index = [], 0
        for scale, number in enumerate(self.groups):
            for group in range(number):
                if self.total > 1:
                    for _ in range(self.a.num_cell_per_cond_enc):
                        s = self.cell(s, f"enc_tower.{index}", "enc")
                        index += 1
                if (scale, group) != (len(self.groups) - 1, number - 1):
                    stored.append((f"enc_tower.{index}.conv", s))
                    index += 1
            if scale < len(self.groups) - 1:
                s = self.cell(s, f"enc_tower.{index}", "enc", 2)
                index += 1
        self.stored = stored[::-1]
        return F.elu(self.conv(F.elu(s), "enc0.1"))

    def walk(self, batch: int, source: Source) -> Tensor:
        s = self.get("prior_ftr0").expand(batch, -1, -1, -1)
        index, g = 0, 0
        if self.total == 1:
            z = source(0, s, *self.raw_prior(0, s))
            s = self.conv(z, "stem_decoder")
        else:
            for scale in range(len(self.groups)):
                for _ in range(self.groups[len(self.groups) - 1 - scale]):
                    if g > 0:
                        for _ in range(self.a.num_cell_per_cond_dec):
                            s = self.cell(s, f"dec_tower.{index}", "dec")
                            index += 1
                    z = source(g, s, *self.raw_prior(g, s))
                    s = self.conv(torch.cat([s, z], 1), f"dec_tower.{index}.conv")
                    index += 1
                    g += 1
                if scale < len(self.groups) - 1:
                    s = self.cell(s, f"dec_tower.{index}", "dec", -1)
                    index += 1
        index = 0
        for _ in range(self.a.num_postprocess_blocks):
            for cell in range(self.a.num_postprocess_cells):
                s = self.cell(s, f"post_process.{index}", "post", -1 if cell == 0 else 1)
                index += 1
        return self.conv(F.elu(s), "image_conditional.1", padding=1)

    def raw_prior(self, g: int, s: Tensor) -> tuple[Tensor, Tensor]:
        if g == 0:
            zero = s.new_zeros(len(s), self.a.num_latent_per_group, *s.shape[2:])
            return zero, zero
        raw = self.conv(F.elu(s), f"dec_sampler.{g - 1}.1")
        return raw.chunk(2, 1)

    def decode(self, eps: list[Tensor], t: float = 1.0) -> tuple[Tensor, list[Tensor], Tensor]:
        """Logits, latents and log p(z)."""
        zs, log_p = [], 0

        def source(g: int, s: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
            nonlocal log_p
            scale = (c5(log_scale).exp() + 0.01) * t
            zs.append(c5(mean) + scale * eps[g])
            log_p = log_p + log_normal(zs[-1], c5(mean), scale).flatten(1).sum(1)
            return zs[-1]

        return self.walk(len(eps[0]), source), zs, log_p

    def encode(self, image: Tensor, noise: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits, KL of each group, log q and log p."""
        first = self.features(image)
        log_q, log_p, kls = 0, 0, []

        def source(g: int, s: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
            nonlocal log_q, log_p
            if g == 0:
                ftr = first
            else:
                name, stored = self.stored[g - 1]
                ftr = stored + self.conv(s, name)
            mu_q, log_q_scale = self.conv(ftr, f"enc_sampler.{g}", padding=1).chunk(2, 1)
            if self.a.res_dist and g > 0:
                mu_q, log_q_scale = mu_q + mean, log_q_scale + log_scale
            mu_q, scale_q = c5(mu_q), c5(log_q_scale).exp() + 0.01
            mu_p, scale_p = c5(mean), c5(log_scale).exp() + 0.01
            z0 = mu_q + scale_q * noise[g]
            z = self.flow(z0, g)
            q = log_normal(z0, mu_q, scale_q)
            p = log_normal(z, mu_p, scale_p)
            log_q, log_p = log_q + q.flatten(1).sum(1), log_p + p.flatten(1).sum(1)
            ratio = scale_q / scale_p
            closed = 0.5 * (((mu_q - mu_p) / scale_p) ** 2 + ratio**2) - 0.5 - ratio.log()
            kls.append((q - p if self.a.num_nf else closed).flatten(1).sum(1))
            return z

        logits = self.walk(len(image), source)
        return logits, torch.stack(kls, 1), log_q, log_p


def log_gaussian(logits: Tensor, image: Tensor, *, floor: bool) -> Tensor:
    """log p(x|z) of every pixel and colour."""
    mean, log_scale = logits.chunk(2, 1)
    log_scale = c5(log_scale)
    scale = (log_scale.clamp(min=-2) if floor else log_scale).exp() + 0.01
    return log_normal(2 * image - 1, c5(mean), scale)


def log_mixture(logits: Tensor, image: Tensor, bits: int) -> Tensor:
    """log p(x|z) of every pixel, one component, colour and pixel after the other."""
    number = logits.shape[1] // 10
    weights = logits[:, :number].log_softmax(1)
    rest = logits[:, number:].view(len(logits), 3, 3 * number, *logits.shape[2:])
    x, q, total = 2 * image - 1, 2**bits - 1, []
    for m in range(number):
        mean, log_s = rest[:, :, m], rest[:, :, number + m].clamp(min=-7)
        k = rest[:, :, 2 * number + m].tanh()
        means = [
            mean[:, 0],
            mean[:, 1] + k[:, 0] * x[:, 0],
            mean[:, 2] + k[:, 1] * x[:, 0] + k[:, 2] * x[:, 1],
        ]
        terms = 0
        for c in range(3):
            d, i = x[:, c] - means[c], (-log_s[:, c]).exp()
            a, b, u = i * (d + 1 / q), i * (d - 1 / q), i * d
            delta = a.sigmoid() - b.sigmoid()
            narrow = u - log_s[:, c] - 2 * F.softplus(u) - log(q / 2)
            term = torch.where(delta > 1e-5, delta.clamp(min=1e-10).log(), narrow)
            term = torch.where(x[:, c] > 0.99, -F.softplus(b), term)
            terms = terms + torch.where(x[:, c] < -0.999, a - F.softplus(a), term)
        total.append(terms + weights[:, m])
    return torch.stack(total).logsumexp(0)
