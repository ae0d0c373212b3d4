"""How the server comes to a sum of the clients' updates, and what it sees on the way.

Updates become integers (``codec``), which travel in the open (``fixed``), masked (``secagg``), or
encrypted (``homomorphic``: ``paillier``, and BFV and CKKS in ``lattice``). No transport is here:
whoever carries the messages is :mod:`fedmed.federation`'s concern.
"""
