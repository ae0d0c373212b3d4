"""What a strategy remembers on the server from round to round, for the checkpoint."""

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

from flwr.serverapp.strategy import Strategy

from fedmed.core.errors import FedmedError


class StrategyState:
    """The state of a strategy, which is made before the first round and no later.

    A strategy with ``state_dict`` and ``load_state_dict`` says itself what it remembers. Of any
    other it is each attribute, but for functions and frozen dataclasses, which its configuration
    makes anew, and strategies within it, each of which has a state of its own. None of these may be
    another object after a round: the next process would go on with the first one.

    Args:
        strategy: as it was built.

    Raises:
        FedmedError: if it has one of the two methods alone.
    """

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy
        self._built = dict(_built(strategy))

    def state_dict(self) -> dict[str, Any]:
        """Return what is to be remembered: a tree of numbers, texts, arrays and records.

        Raises:
            FedmedError: naming the attribute, if a round has put another object in the place of one
                that only the configuration makes.
        """
        now = dict(_built(self._strategy))
        for name in self._built | now:
            if self._built.get(name) is not now.get(name):
                raise FedmedError(
                    f"strategy.server: a round has changed {type(self._strategy).__name__}.{name}, "
                    "which no checkpoint holds: functions, frozen dataclasses and strategies are "
                    "made by the configuration alone; give the class state_dict and load_state_dict"
                )
        return _state_dict(self._strategy)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set the strategy, in place, to what :meth:`state_dict` returned of one built alike."""
        _load(self._strategy, state)


def _says_itself(strategy: Strategy) -> bool:
    has = [hasattr(strategy, name) for name in ("state_dict", "load_state_dict")]
    if any(has) and not all(has):
        raise FedmedError(
            f"strategy.server: {type(strategy).__name__} has one of state_dict and load_state_dict;"
            " a checkpoint takes both"
        )
    return all(has)


def _built(strategy: Strategy, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield what no round may replace, by dotted name."""
    if _says_itself(strategy):
        return
    for name, value in vars(strategy).items():
        if isinstance(value, Strategy) or _is_made_anew(value):
            yield f"{prefix}{name}", value
        if isinstance(value, Strategy):
            yield from _built(value, f"{prefix}{name}.")


def _is_made_anew(value: object) -> bool:
    return callable(value) or (
        is_dataclass(value) and bool(getattr(value, "__dataclass_params__").frozen)  # noqa: B009
    )


def _state_dict(strategy: Strategy) -> dict[str, Any]:
    if _says_itself(strategy):
        return dict(strategy.state_dict())  # type: ignore[attr-defined]
    return {
        name: _state_dict(value) if isinstance(value, Strategy) else value
        for name, value in vars(strategy).items()
        if isinstance(value, Strategy) or not _is_made_anew(value)
    }


def _load(strategy: Strategy, state: Mapping[str, Any]) -> None:
    if _says_itself(strategy):
        strategy.load_state_dict(state)  # type: ignore[attr-defined]
        return
    for name, value in state.items():
        own = getattr(strategy, name, None)  # none yet, where a round is the first to set it
        if isinstance(own, Strategy):
            _load(own, value)
        else:
            setattr(strategy, name, value)
