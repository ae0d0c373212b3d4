"""What each layer adds to the gradients of units, without one gradient an image in memory.

One backward pass gives each layer the gradient of its output, from which all else follows. A unit's
images are more positions of one sum: its gradient of a weight is Σₜ gₜ aₜᵀ over all positions t of
all of its images, with the layer's input a and the gradient g of its output. Its squared norm is
Σₛₜ (aₛ·aₜ)(gₛ·gₜ), which needs no gradient at all where positions are few (ghost norms: Goodfellow
2015; Li et al. 2022, Section 4); where the weight is small, the gradients of units are written out
(mixed, as in Bu et al. 2022). Both are then weighted and summed without a second pass through the
network (Bu et al. 2023, book-keeping).
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from fedmed.models.normalization import FrozenBatchNorm
from fedmed.training.dpsgd.grouping import Ghost, Part, Pixels, Run, Units, Written

#: Multiplications that take as long as to write, read and read again one number of a gradient.
WRITING = 16.0

#: Channels below which the library's own gradient of a kernel, unit by unit, is faster.
NARROW = 8


@dataclass(frozen=True)
class Call:
    """A layer's input, the gradient of its output, n×… both, and what its forward pass saved."""

    a: Tensor
    g: Tensor
    saved: tuple[Tensor, ...]


def known(layer: nn.Module) -> bool:
    """Return whether the layer's gradients follow here from its input and its output's gradient."""
    if isinstance(layer, nn.Conv2d):
        return layer.padding_mode == "zeros" and isinstance(layer.padding, tuple)
    return isinstance(layer, tuple(_PARTS))


def parts_of(layer: nn.Module, call: Call, units: Units) -> dict[str, Part]:
    """Return what units add to the gradients of a known layer's parameters, by their names."""
    of_layer = next(f for kind, f in _PARTS.items() if isinstance(layer, kind))
    return of_layer(layer, call, units)


def _linear(layer: nn.Linear, call: Call, units: Units) -> dict[str, Part]:
    a, g = (t.reshape(len(t), -1, t.shape[-1]) for t in (call.a, call.g))  # n×T×d, n×T×p
    weight = _matrix(a, g, units)
    return {"weight": weight} | _bias(layer, g, units)


def _matrix(a: Tensor, g: Tensor, units: Units) -> Part:
    """Return the part of a weight that is multiplied with a at each position, n×T×d → n×T×p."""

    def products(run: Run) -> tuple[Tensor, Tensor]:
        return _gram(a[run.images], run.number), _gram(g[run.images], run.number)

    def add(total: Tensor, scale: Tensor) -> None:
        scaled = (g * scale.view(-1, 1, 1)).flatten(0, 1)
        total.view(g.shape[2], -1).addmm_(scaled.T, a.flatten(0, 1))

    if _ghost_is_cheaper(a.shape[2], g.shape[2], a.shape[1], units):
        return Ghost(products, add, a.dtype)
    return _written(a, g, units)


def _written(a: Tensor, g: Tensor, units: Units) -> Written:
    """Write out the gradients of a weight that is multiplied with a, n×T×d → n×T×p."""
    rows = a.new_empty(units.number, g.shape[2], a.shape[2])
    for run in units.runs:
        b, h = (t[run.images].reshape(run.number, -1, t.shape[2]) for t in (a, g))
        torch.bmm(h.mT, b, out=rows[run.units])
    return Written(rows.flatten(1))


def _conv(layer: nn.Conv2d, call: Call, units: Units) -> dict[str, Part]:
    a, g = (t.permute(0, 2, 3, 1) for t in (call.a, call.g))
    pointwise = layer.kernel_size == layer.stride == (1, 1) and layer.padding == (0, 0)
    if pointwise and layer.groups == 1:
        weight = _matrix(a.flatten(1, 2), g.flatten(1, 2), units)
    elif layer.groups == layer.in_channels == layer.out_channels:
        weight = _depthwise(layer, a, g, units)
    else:
        weight = _kernel(layer, call, units)
    return {"weight": weight} | _bias(layer, g.flatten(1, 2), units)


def _kernel(layer: nn.Conv2d, call: Call, units: Units) -> Part:
    """Return the part of a kernel of several pixels, or of one that skips some."""
    out, seen = len(layer.weight), layer.weight[0].numel()
    side = call.g.shape[2:]
    how = (layer.stride, layer.padding, layer.dilation, layer.groups)
    gradient = partial(_gradient_of_kernel, layer.weight.shape, how)

    def products(run: Run) -> tuple[Tensor, Tensor]:
        a, g = (t[run.images].permute(0, 2, 3, 1) for t in (call.a, call.g))
        return _gram_of_windows(layer, a, run.number, side), _gram(g.flatten(1, 2), run.number)

    def add(total: Tensor, scale: Tensor) -> None:
        total.add_(gradient(call.a, call.g * scale.view(-1, 1, 1, 1)))

    if layer.groups == 1 and _ghost_is_cheaper(seen, out, side.numel(), units):
        return Ghost(products, add, call.a.dtype)
    if layer.groups == 1 and min(layer.in_channels, out) >= NARROW:
        return Pixels([_written(a, g, units) for a, g in _meetings(layer, call)])
    rows = [
        gradient(a, g)
        for run in units.runs
        for a, g in zip(*(t[run.images].chunk(run.number) for t in (call.a, call.g)), strict=True)
    ]
    return Written(torch.stack(rows).flatten(1))


def _meetings(layer: nn.Conv2d, call: Call) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, for each pixel of a kernel, the input that it meets and the gradient there.

    Either is shifted, which takes a copy: the one with fewer channels, where that is possible.

    Yields:
        n×T×C and n×T×p, whose products summed over T are the gradient of the pixel.
    """
    a, g = (t.permute(0, 2, 3, 1) for t in (call.a, call.g))
    (top, left), (height, width) = cast(tuple[int, int], layer.padding), layer.kernel_size
    if layer.stride == (1, 1) and g.shape[3] < a.shape[3]:
        top = (height - 1) * layer.dilation[0] - top
        left = (width - 1) * layer.dilation[1] - left
        g = F.pad(g, (0, 0, left, left, top, top))
        for y, x in reversed([*_taps(layer, a.shape[1:3])]):
            yield a.flatten(1, 2), g[:, y, x].flatten(1, 2)
        return
    a = F.pad(a, (0, 0, left, left, top, top))
    for y, x in _taps(layer, g.shape[1:3]):
        yield a[:, y, x].flatten(1, 2), g.flatten(1, 2)


def _depthwise(layer: nn.Conv2d, a: Tensor, g: Tensor, units: Units) -> Part:
    """Return the part of a kernel that sees one channel; a and g are n×H×W×C."""
    (top, left), out = cast(tuple[int, int], layer.padding), g.shape[1:3]
    a = F.pad(a, (0, 0, left, left, top, top))
    each = torch.stack([(a[:, y, x] * g).sum((1, 2)) for y, x in _taps(layer, out)], dim=2)
    return Written(units.sum(each.flatten(1)))


def _taps(layer: nn.Conv2d, out: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Yield what each pixel of a kernel meets of the padded input, row by row."""
    for pixel in itertools.product(*map(range, layer.kernel_size)):
        y, x = (
            slice(i * apart, i * apart + step * (n - 1) + 1, step)
            for i, apart, step, n in zip(pixel, layer.dilation, layer.stride, out, strict=True)
        )
        yield y, x


def _gradient_of_kernel(shape: Sequence[int], how: tuple[Any, ...], a: Tensor, g: Tensor) -> Tensor:
    """Return the gradient of a kernel, summed over images."""
    found: Tensor = conv2d_weight(a, list(shape), g, *how)  # type: ignore[no-untyped-call]
    return found


def _ghost_is_cheaper(into: int, out: int, positions: int, units: Units) -> bool:
    """Choose between products of any two positions and the units' gradients themselves."""
    pairs = positions**2 * units.mean_square
    return pairs * (1 / into + 1 / out) < WRITING


def _gram(rows: Tensor, units: int) -> Tensor:
    """Return the products of any two positions of a unit: um×T×d → u×mT×mT, float64."""
    joined = rows.reshape(units, -1, rows.shape[2]).double()
    return joined @ joined.mT


def _gram_of_windows(layer: nn.Conv2d, a: Tensor, units: int, out: Sequence[int]) -> Tensor:
    """Return the products of what any two output positions see, from those of single pixels.

    Args:
        layer: whose kernel it is.
        a: um×H×W×C.
        units: u.
        out: height and width of the output.
    """
    side = (len(a) // units, *a.shape[1:3])
    top, left = cast(tuple[int, int], layer.padding)
    pixels = _gram(a.flatten(1, 2), units).view(units, *side, *side)
    pixels = F.pad(pixels, (left, left, top, top, 0, 0, left, left, top, top))
    total = pixels.new_zeros(units, side[0], *out, side[0], *out)
    for y, x in _taps(layer, out):
        total += pixels[:, :, y, x, :, y, x]
    return total.flatten(4).flatten(1, 3)


def _group_norm(layer: nn.GroupNorm, call: Call, units: Units) -> dict[str, Part]:
    """From the statistics of the forward pass: Σ g·(a−μ)/σ = (Σ g·a − μ·Σ g)/σ."""
    mean, inverse = (t.view(len(call.a), -1, 1) for t in call.saved)  # n×groups×1
    grouped = (len(call.a), layer.num_groups, -1)
    ga, g = (t.sum((2, 3)).view(grouped) for t in (call.a * call.g, call.g))
    return _scale_and_shift(layer, ((ga - mean * g) * inverse).flatten(1), g.flatten(1), units)


def _layer_norm(layer: nn.LayerNorm, call: Call, units: Units) -> dict[str, Part]:
    normal = F.layer_norm(call.a, layer.normalized_shape, eps=layer.eps)
    n, size = len(call.a), math.prod(layer.normalized_shape)
    ga, g = (t.reshape(n, -1, size).sum(dim=1) for t in (normal.mul_(call.g), call.g))
    return _scale_and_shift(layer, ga, g, units)


def _frozen_norm(layer: FrozenBatchNorm, call: Call, units: Units) -> dict[str, Part]:
    normal = layer.normal(call.a)
    return _scale_and_shift(layer, normal.mul_(call.g).sum((2, 3)), call.g.sum((2, 3)), units)


def _scale_and_shift(
    layer: nn.Module, weight: Tensor, bias: Tensor, units: Units
) -> dict[str, Part]:
    """Return the parts of a norm's weight and bias, n×C each, either of which it may lack."""
    each = {"weight": weight, "bias": bias}
    return {name: _vector(t, units) for name, t in each.items() if getattr(layer, name) is not None}


def _bias(layer: nn.Linear | nn.Conv2d, g: Tensor, units: Units) -> dict[str, Part]:
    """Return the part of a bias, if there is one; g is n×T×p."""
    return {} if layer.bias is None else {"bias": _vector(g.sum(dim=1), units)}


def _vector(each: Tensor, units: Units) -> Written:
    return Written(units.sum(each))


_PARTS: dict[type[nn.Module], Callable[..., dict[str, Part]]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    FrozenBatchNorm: _frozen_norm,
}
