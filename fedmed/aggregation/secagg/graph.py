"""Who masks with whom: everyone with everyone, or in large cohorts a random k-regular graph.

Bell et al., "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead" (CCS 2020), section
3: the clients stand on a circle in a random order, and each is the neighbour of the k/2 on either
side (a Harary graph). What can go wrong there is computed here for the cohort at hand, exactly and
by a union bound over its clients, and k is the smallest even number for which all of it together
happens with a probability of at most 2^-40:

1. a client has so many corrupt neighbours that these can put its secrets together;
2. so many of a client's neighbours drop out that the others cannot give its mask back;
3. among honest clients that stay, some are not connected to the others: all k/2 that follow a
   client have dropped out or are corrupt.

One client in ten is taken to be corrupt. Drop-outs and corrupt clients are taken to be chosen
before the order is. A server that chooses who "drops out" after it has seen the order can split the
sum, yet only into sums of clients of which each has enough neighbours to give back its mask: at
least the neighbourhood's threshold less the corrupt ones among them. And it can try many orders
through a corrupt client's keys, so that 2^-40 is for each that it tries.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from math import comb
from typing import NamedTuple

WHOLE = 50  # below so many a graph would save next to nothing
CORRUPT = 10  # one client in so many may be in league with the server
FAILURE_BITS = 40  # all that can go wrong has at most a probability of 2^-40


class Plan(NamedTuple):
    """How a cohort masks.

    Attributes:
        degree: k, how many neighbours each client has.
        threshold: how many of a client and its neighbours give its secret back.
    """

    degree: int
    threshold: int


@lru_cache
def plan(cohort: int, threshold: int) -> Plan:
    """Return the smallest degree that is safe, and the largest threshold that goes with it.

    Args:
        cohort: how many clients take part, K.
        threshold: how many of them must stay, so that K less these may drop out.

    Returns:
        Everyone with everyone, and the same threshold, where no smaller degree is safe, and below
        50 clients.
    """
    dropped, corrupt = cohort - threshold, cohort // CORRUPT
    for degree in range(2, cohort - 1, 2) if cohort >= WHOLE else ():
        half = degree // 2
        apart = comb(dropped + corrupt, half), comb(cohort - 1, half)
        if not _rare(cohort, *apart):
            continue
        fewest = degree + 1 - _rarely_reached(cohort, dropped, degree)
        if fewest >= _rarely_reached(cohort, corrupt, degree):
            return Plan(degree, fewest)
    return Plan(cohort - 1, threshold)


def neighbours(members: Sequence[int], degree: int, transcript: str) -> dict[int, list[int]]:
    """Return each client's neighbours, ascending.

    Args:
        members: the clients of the cohort.
        degree: of the plan.
        transcript: the hash of all that they announced, from which the order follows, so that
            nobody can choose it.
    """
    if degree == len(members) - 1:
        return {one: [other for other in members if other != one] for one in members}
    circle = sorted(
        members, key=lambda one: hashlib.sha256(f"{transcript} {one}".encode()).digest()
    )
    size = len(circle)
    steps = [step for step in range(-(degree // 2), degree // 2 + 1) if step]
    return {
        one: sorted(circle[(place + step) % size] for step in steps)
        for place, one in enumerate(circle)
    }


def _rare(cohort: int, ways: int, of: int) -> bool:
    """Say whether, for all clients together, this is at most a third of the failure allowed."""
    return 3 * cohort * ways << FAILURE_BITS <= of


def _rarely_reached(cohort: int, marked: int, degree: int) -> int:
    """Return the least number of marked neighbours that is rarely reached (hypergeometric)."""
    of, ways = comb(cohort - 1, degree), 0
    for count in range(min(marked, degree), -1, -1):
        ways += comb(marked, count) * comb(cohort - 1 - marked, degree - count)
        if not _rare(cohort, ways, of):
            return count + 1
    return 0
