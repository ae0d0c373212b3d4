"""A run's record: chained, hashed into a Merkle tree, signed and anchored, so that it can be shown.

What it is made of (``hashes``), the chain and its file (``chain``), the tree (``merkle``), keys and
signatures (``signatures``), and where heads are kept outside of the run directory (``anchors``,
``ethereum``).
"""
