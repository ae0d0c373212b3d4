"""Sums that the server can form without seeing what it sums.

Homomorphic encryption behind one interface (``homomorphic``): Paillier's scheme (``paillier``), and
BFV and CKKS over lattices (``lattice``). Bytes and arrays in, bytes and arrays out: nothing here
knows of messages, configurations or files.
"""
