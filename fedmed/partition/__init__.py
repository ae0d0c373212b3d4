"""Partitions: patient → client. Test patients belong to no client.

A room each: the :class:`Rule` by which patients become clients (``rule``); the table of patients
that rules see (``patients``); label and quantity ``skews``, NIID-Bench's among them; the
``natural`` clients of a dataset; clients ``sized`` within sites; ``hospitals`` with a profile; any
partitioner of flwr-datasets (``flower``); one that was ``saved``; the ``record`` of it, checked and
hashed; its ``measures``.
"""

from fedmed.partition.flower import Flower
from fedmed.partition.hospitals import Hospitals
from fedmed.partition.measures import describe, measure
from fedmed.partition.natural import Natural
from fedmed.partition.patients import patients_of
from fedmed.partition.record import check, read, save, sha256
from fedmed.partition.rule import Partition, Rule
from fedmed.partition.saved import Saved
from fedmed.partition.sized import Sized
from fedmed.partition.skews import IID, Dirichlet, Pathological, Quantity

__all__ = [
    "IID",
    "Dirichlet",
    "Flower",
    "Hospitals",
    "Natural",
    "Partition",
    "Pathological",
    "Quantity",
    "Rule",
    "Saved",
    "Sized",
    "check",
    "describe",
    "measure",
    "patients_of",
    "read",
    "save",
    "sha256",
]
