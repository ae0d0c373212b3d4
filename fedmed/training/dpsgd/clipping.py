"""The sum of clipped gradients, a unit's images together: exact, and cheap where layers allow it.

Where every parameter belongs to a layer of a known kind, norms and weighted sums follow from one
backward pass over the batch (:mod:`fedmed.training.dpsgd.backward`). Else, as for a ViT's position
embedding, ``torch.func`` gives each image's gradient, which takes longer and more memory.

What is clipped is what is added: autocast reaches the forward pass and no further, norms are not
rounded down, and a unit moves the sum by at most the clipping norm as the machine computes it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from fedmed.training.dpsgd.backward import Unrecordable, recordable, recorded
from fedmed.training.dpsgd.grouping import Rows, Units, squared_norms

#: How many times the rounding of one number a clipped gradient stays below the clipping norm.
MARGIN = 100


def image_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return each image's binary cross-entropy summed over its known labels, over T: n×T → n."""
    known, logits = ~labels.isnan(), logits.to(labels.dtype)
    each = F.binary_cross_entropy_with_logits(
        logits, labels.nan_to_num(), weight=known.to(logits.dtype), reduction="none"
    )
    losses: Tensor = each.mean(dim=1)
    return losses


Loss = Callable[[Tensor, Tensor], Tensor]


class ClippedSum:
    """A running sum of clipped gradients.

    The order of ``total`` is that of the numbers' indices, however a parameter lies in memory.

    Attributes:
        total: the sum, flat, over all parameters in their order.

    Args:
        network: whose gradients; :meth:`write` gives the sum to its parameters.
        clip_norm: C.
        loss: gives the loss of each image, n, from the network's outputs, n×…, and the labels,
            n×…; an image's may depend on no other's output or label.
    """

    def __init__(self, network: nn.Module, clip_norm: float, loss: Loss = image_losses) -> None:
        self._network = network
        self._loss_of = loss
        self._clip_norm = clip_norm
        self._parameters = dict(network.named_parameters())
        sizes = [p.numel() for p in self._parameters.values()]
        self.total = next(network.parameters()).new_zeros(sum(sizes))
        split = torch.split(self.total, sizes)
        self._sums = {
            name: flat.view(p.shape)
            for (name, p), flat in zip(self._parameters.items(), split, strict=True)
        }
        for name, p in self._parameters.items():
            p.grad = self._sums[name] if p.is_contiguous() else torch.zeros_like(p)
        self._forward = torch.autocast(self.total.device.type, enabled=False)
        self._by_layers = recordable(network)
        self._per_image = vmap(
            grad_and_value(self._loss), in_dims=(None, 0, 0), randomness="different"
        )

    def write(self) -> None:
        """Let each parameter's ``grad`` be its share of ``total``, in the parameter's own layout.

        A fused optimizer goes through weights and gradients as they lie in memory, so they must
        lie alike: of a parameter that is contiguous ``grad`` is a view, of any other a copy.
        """
        for name, p in self._parameters.items():
            if p.grad is not None and not p.is_contiguous():
                p.grad.copy_(self._sums[name])

    def add_units(self, images: Tensor, labels: Tensor, unit: Rows) -> Tensor:
        """Add the clipped gradients of whole units, and return each image's loss.

        Args:
            images: n×1×H×W.
            labels: n×T.
            unit: of each image, in any coding.
        """
        with self._exact():
            return self._add_in_any_order(images, labels, unit)

    def add_large_unit(self, pieces: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
        """Add the clipped gradient of one unit that comes in pieces, and return the losses."""
        weights = {k: p.detach().requires_grad_() for k, p in self._parameters.items()}
        rows = {name: self.total.new_zeros(1, p.numel()) for name, p in weights.items()}
        losses = []
        for images, labels in pieces:
            with self._exact():
                each = self._losses(weights, images, labels)
                found = torch.autograd.grad(
                    each.sum(), list(weights.values()), materialize_grads=True
                )
            for row, gradient in zip(rows.values(), found, strict=True):
                row += gradient.reshape(1, -1)
            losses.append(each.detach())
        with self._exact():
            self._add_rows(rows)
        return torch.cat(losses)

    @contextmanager
    def _exact(self) -> Iterator[None]:
        """Keep the autocast that is on for the forward pass, and switch it off for all else."""
        kind = self.total.device.type
        lower, on = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        self._forward = torch.autocast(kind, lower, on)
        with torch.autocast(kind, enabled=False):
            yield

    def _losses(self, weights: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        with self._forward:
            logits: Tensor = functional_call(self._network, weights, (images,))
        return self._loss_of(logits, labels)

    def _add_in_any_order(self, images: Tensor, labels: Tensor, unit: Rows) -> Tensor:
        units = Units(unit, images.device)
        losses = self._add(images[units.order], labels[units.order], units)
        return torch.empty_like(losses).index_copy_(0, units.order, losses)

    def _add(self, images: Tensor, labels: Tensor, units: Units) -> Tensor:
        if self._by_layers:
            try:
                return self._add_by_layers(images, labels, units)
            except Unrecordable:
                self._by_layers = False
        return self._add_by_images(images, labels, units)

    def _add_by_layers(self, images: Tensor, labels: Tensor, units: Units) -> Tensor:
        with recorded(self._network, units) as record:
            with self._forward:
                logits = self._network(images)
            losses = self._loss_of(logits, labels)
            losses.sum().backward()  # type: ignore[no-untyped-call]
        scale = self._scale(record.squared_norms.sqrt())
        if scale.all():
            for name, part in record.parts.items():
                part.add_to(self._sums[name], scale, units)
            return losses.detach()
        whole = scale.bool()[units.of_image]  # what is infinite times 0 is not 0: leave it out
        if whole.any():
            unit = units.of_image[whole].cpu().numpy()
            self._add_in_any_order(images[whole], labels[whole], unit)
        return losses.detach()

    def _add_by_images(self, images: Tensor, labels: Tensor, units: Units) -> Tensor:
        weights = {name: p.detach() for name, p in self._parameters.items()}
        losses: Tensor
        gradients, losses = self._per_image(weights, images, labels)
        self._add_rows({name: units.sum(g.flatten(1)) for name, g in gradients.items()})
        return losses

    def _loss(self, weights: dict[str, Tensor], image: Tensor, labels: Tensor) -> Tensor:
        return self._losses(weights, image.unsqueeze(0), labels.unsqueeze(0)).squeeze(0)

    def _add_rows(self, rows: dict[str, Tensor]) -> None:
        """Clip and add the rows of each parameter's units×p gradients."""
        scale = self._scale(torch.stack([*map(squared_norms, rows.values())]).sum(dim=0).sqrt())
        for name, row in rows.items():
            row[scale == 0] = 0.0
            self._sums[name].view(-1).addmv_(row.T, scale)

    def _scale(self, norms: Tensor) -> Tensor:
        """Return what takes each unit's norm below C; what cannot be clipped is worth 0.

        So is what would take a factor that is too small to be held in full precision.
        """
        held = torch.finfo(self.total.dtype)
        scale = (self._clip_norm * (1 - MARGIN * held.eps) / norms).clamp(max=1.0)
        usable = norms.isfinite() & (scale >= held.tiny)
        return scale.where(usable, 0.0).to(self.total.dtype)
