"""Secure aggregation: the server learns the sum of the clients' vectors and of no vector anything.

Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning" (CCS 2017),
with neighbours on a k-regular graph in large cohorts (Bell et al., CCS 2020). Vectors are of 32-bit
words and are added modulo 2^32. A round's attempt has five steps:

=========== ================================== ==================================
step        a client does                      and the server then sends
=========== ================================== ==================================
``keys``    announces keys made for this       to all: all keys
            attempt, signed
``shares``  shares its seed and its key among  to each: what others sealed for it
            its neighbours, sealed for each
``mask``    adds a mask of its own and one     to all: who survives
            with each neighbour
``consent`` signs that it has heard of these   to all: the signatures
            survivors
``reveal``  tells of each survivor the share
            of its seed, of others the one of
            their key
=========== ================================== ==================================

No transport is here: steps take and return flat mappings (:mod:`.messages`).

With K clients, a threshold of t and everyone the neighbour of everyone (for graphs see
:mod:`.graph`), a server that keeps to the protocol opens a client's vector with t others in league
with it, and with fewer learns nothing but the sum of the rest. One that cheats is stopped only
where all hospitals' keys are registered: it then needs 2t - K of them, a third of all by default,
to have two lists of survivors answered. Who is in the sum is the server's to choose, as it can call
anyone dropped out: with c in league, at least t - c others are.

Not protected are the sum, and who takes part or drops out; nor is it known that the sum is right: a
client can send whatever vector it likes, and a server tell whatever sum it likes.
"""

from fedmed.aggregation.secagg.attempt import Attempt
from fedmed.aggregation.secagg.client import SecAggClient
from fedmed.aggregation.secagg.messages import SecAggError
from fedmed.aggregation.secagg.server import SecAggServer

__all__ = ["Attempt", "SecAggClient", "SecAggError", "SecAggServer"]
