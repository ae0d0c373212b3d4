"""Audits: what an attacker finds in a run, beside what its ledger claims. Patients are the unit.

:mod:`one_run` bounds ε from below, :mod:`membership` tells members from others, :mod:`canaries`
puts patients into a run whose presence a coin decided, :mod:`finished` reads a run directory, and
:mod:`report` writes what came out.
"""
