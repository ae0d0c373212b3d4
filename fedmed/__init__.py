"""fedmed: a benchmark of private, federated learning on chest radiographs.

Public names are imported when they are asked for, so that ``import fedmed`` takes no time.
``fedmed.run`` is the module behind ``python -m fedmed.run``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedmed.config.compose import compose
    from fedmed.core.errors import FedmedError
    from fedmed.data.card import Card
    from fedmed.data.table import Dataset
    from fedmed.evaluation.bootstrap import score
    from fedmed.evaluation.comparison import compare
    from fedmed.evaluation.predictions import Predictions
    from fedmed.experiment.callbacks import Callback
    from fedmed.experiment.train import train
    from fedmed.federation.update_steps import UpdateStep
    from fedmed.privacy.accounting import epsilon, noise_for
    from fedmed.privacy.events import Event
    from fedmed.runs.run import Run
    from fedmed.training.hooks import LocalHooks
    from fedmed.training.private import train_privately

    __version__: str

__all__ = [
    "Callback",
    "Card",
    "Dataset",
    "Event",
    "FedmedError",
    "LocalHooks",
    "Predictions",
    "Run",
    "UpdateStep",
    "__version__",
    "compare",
    "compose",
    "epsilon",
    "noise_for",
    "score",
    "train",
    "train_privately",
]

_HOMES = {
    "Callback": "experiment.callbacks",
    "Card": "data.card",
    "Dataset": "data.table",
    "Event": "privacy.events",
    "FedmedError": "core.errors",
    "LocalHooks": "training.hooks",
    "Predictions": "evaluation.predictions",
    "Run": "runs.run",
    "UpdateStep": "federation.update_steps",
    "compare": "evaluation.comparison",
    "compose": "config.compose",
    "epsilon": "privacy.accounting",
    "noise_for": "privacy.accounting",
    "score": "evaluation.bootstrap",
    "train": "experiment.train",
    "train_privately": "training.private",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("fedmed")
    if name in _HOMES:
        return getattr(import_module(f"fedmed.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'fedmed' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
