"""Privacy: what a run releases, what that costs, and what it may still cost."""

from fedmed.privacy.accounting import ACCOUNTANT, epsilon
from fedmed.privacy.events import Event, PrivateStrategy
from fedmed.privacy.ledger import Ledger

__all__ = ["ACCOUNTANT", "Event", "Ledger", "PrivateStrategy", "epsilon"]
