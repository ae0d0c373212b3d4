"""A client's own look at the model it is sent, where the server sees sums of updates alone.

A sum hides an update only from a server that sends an honest model: one whose first layer measures
the same thing in every row, with a threshold each, parts the images of all clients between the
rows, and their gradients come out of the sum one by one ("Robbing the Fed", Fowl et al. 2022).
This refuses what that attack looks like. It is a tripwire and no proof: rows that differ more, or
traps in later layers, pass; what holds against any model is differential privacy.
"""

import math

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray
from torch import nn

from fedmed import models
from fedmed.aggregation.base import IntegerSum
from fedmed.client.context import ClientContext
from fedmed.federation.messages import Unfit
from fedmed.federation.summands import STATISTICS

#: How many times further than its clients' mean a server's optimizer may have gone each round.
FARTHER = 100.0
NEAR = 0.995  # cosine from which two rows measure the same
SHARE = 0.25  # of a layer's rows that no honest training makes so near to one of them
FEWEST_ROWS = 4  # fewer part hardly anything
LEAST_INPUTS = 8  # of a row: in fewer dimensions rows are near by chance


def check_model(own: ClientContext, sent: ArrayRecord, round_: int) -> None:
    """Refuse a model that no honest server would send, where the task's aggregation hides updates.

    Args:
        own: what this client has.
        sent: the arrays that came.
        round_: the round, from 1; before it is 0.

    Raises:
        Unfit: of kind ``model``, if arrays are not exactly those that travel, or not finite, or
            further from the first state than rounds of this aggregation can bring them, or the
            first layer is made to tell images apart.
    """
    aggregation = own.config.aggregation.build()
    if not (isinstance(aggregation, IntegerSum) and aggregation.hides):
        return
    names = models.shared_names(own.network, own.config.strategy.state)
    if reason := _unlike(sent, {name: own.initial[name].shape for name in names}):
        raise Unfit("model", f"refuses the model it was sent: {reason}")
    arrays = models.from_record(sent)
    for name, array in arrays.items():
        spread = aggregation.statistics_range if name.endswith(STATISTICS) else aggregation.range
        limit = FARTHER * spread * max(round_, 1) * math.sqrt(array.size)
        if not (norm := distance(array, own.initial[name])) <= limit:
            raise Unfit(
                "model",
                f"refuses the model it was sent: {name} is {norm:.3g} from its first state, and "
                f"{limit:.3g} is the bound",
            )
    if (name := first_layer(own.network)) in arrays and (share := alike(arrays[name])) >= SHARE:
        raise Unfit(
            "model",
            f"refuses the model it was sent: {share:.0%} of the rows of {name} are copies of one, "
            "by which a server takes single images out of a sum",
        )


def first_layer(network: nn.Module) -> str:
    """Return the name of the weights of the first convolution or linear layer.

    Empty where that is the last one too: its outputs are logits, which no threshold parts.
    """
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    layers = [name for name, layer in network.named_modules() if isinstance(layer, kinds)]
    return f"{layers[0]}.weight".lstrip(".") if len(layers) > 1 else ""


def alike(weights: NDArray[np.float32]) -> float:
    """Return the largest share of a layer's rows that are all near copies of one, scaled or not.

    Args:
        weights: of shape (outputs, …); an output's weights are a row. Rows of zeros are like none.
    """
    rows = weights.reshape(len(weights), -1).astype(np.float64)
    if len(rows) < FEWEST_ROWS or rows.shape[1] < LEAST_INPUTS:
        return 0.0
    rows /= np.maximum(np.abs(rows).max(1, keepdims=True), np.finfo(np.float64).tiny)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    near = (np.abs(rows @ rows.T) >= NEAR).sum(1)
    return float(near.max() / len(rows)) if near.max() >= FEWEST_ROWS else 0.0


def distance(array: NDArray[np.float32], start: NDArray[np.float32]) -> float:
    """Return the L2 norm of a difference; not finite if a value is not."""
    step = np.subtract(array, start, dtype=np.float64)
    return math.sqrt(float(np.square(step, out=step).sum()))


def _unlike(sent: ArrayRecord, shapes: dict[str, tuple[int, ...]]) -> str:
    if set(sent) != set(shapes):
        return (
            f"it has {len(set(sent) - set(shapes))} arrays that are none of this network's, and "
            f"lacks {len(set(shapes) - set(sent))}"
        )
    wrong = [name for name, shape in shapes.items() if tuple(sent[name].shape) != shape]
    return f"{wrong[0]} is {tuple(sent[wrong[0]].shape)}, {shapes[wrong[0]]} here" if wrong else ""
