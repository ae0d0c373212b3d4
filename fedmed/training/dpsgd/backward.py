"""Record what units add to the gradients of a network's parameters, as the backward pass comes by.

It is found from each layer's input and the gradient of its output (``layers.py``) while both are at
hand; gradients of outputs need not be kept.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fedmed.training.dpsgd.grouping import Part, Units
from fedmed.training.dpsgd.layers import Call, known, parts_of


class Unrecordable(Exception):
    """A network whose gradients do not follow from its layers' inputs and outputs alone."""


def recordable(network: nn.Module) -> bool:
    """Return whether every parameter is that of one layer whose gradient is known here."""
    theirs = [p for layer in network.modules() if known(layer) for p in layer.parameters(False)]
    return len(theirs) == len({*theirs}) and {*theirs} == {*network.parameters()}


class Record:
    """What units add to the gradients of a network's parameters, as it is found.

    Attributes:
        parts: by parameter's name.
        squared_norms: of each unit's gradient over all parts, float64.

    Args:
        units: of the batch.
    """

    def __init__(self, units: Units) -> None:
        self._units = units
        self.parts: dict[str, Part] = {}
        self.squared_norms = torch.zeros(
            units.number, dtype=torch.float64, device=units.of_image.device
        )

    def add(self, name: str, layer: nn.Module, call: Call) -> None:
        """Add a layer, while what passed through it is at hand.

        Raises:
            Unrecordable: if it was there before.
        """
        for own, part in parts_of(layer, call, self._units).items():
            key = f"{name}.{own}" if name else own
            if key in self.parts:
                raise Unrecordable(name)
            self.parts[key] = part
            self.squared_norms += part.squared_norms(self._units)


@contextmanager
def recorded(network: nn.Module, units: Units) -> Iterator[Record]:
    """Record what units add to the gradients, as the block's backward pass comes by.

    So the gradients of most layers' outputs need not be kept. No gradient of a parameter is
    computed there.

    Raises:
        Unrecordable: if a layer is used twice, its input is changed after it was used, or a group
            norm comes first.
    """
    record = Record(units)
    parameters = [p for p in network.parameters() if p.requires_grad]
    with ExitStack() as stack:
        for name, layer in network.named_modules():
            if known(layer) and list(layer.parameters(recurse=False)):
                handle = layer.register_forward_hook(partial(_follow, record, name))
                stack.callback(handle.remove)
        for p in parameters:
            stack.callback(p.requires_grad_, True)
            p.requires_grad_(False)
        yield record


def _follow(
    record: Record, name: str, layer: nn.Module, inputs: tuple[Tensor], output: Tensor
) -> Tensor:
    a = inputs[0].detach()
    version, precision = a._version, next(layer.parameters()).dtype
    saved: tuple[Tensor, ...] = ()
    if isinstance(layer, nn.GroupNorm):
        if output.grad_fn is None:  # of the images themselves: nothing keeps its statistics
            raise Unrecordable(name)
        saved = _statistics(output.grad_fn)
    if not output.requires_grad:  # of the first layer, whose weights need no gradient here
        output = output.requires_grad_().clone()

    def note(g: Tensor) -> None:
        if a._version != version:
            raise Unrecordable(name)
        with torch.autocast(g.device.type, enabled=False):  # norms are exact in any case
            record.add(name, layer, Call(a.to(precision), g.to(precision), saved))

    output.register_hook(note)  # type: ignore[no-untyped-call]
    return output


def _statistics(graph: Any) -> tuple[Tensor, ...]:
    """Return mean and inverse deviation of each image's groups, which autograd keeps."""
    return graph._saved_result1.detach(), graph._saved_result2.detach()
