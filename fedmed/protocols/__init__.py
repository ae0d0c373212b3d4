"""Protocols: one file each, named by ``protocol._target_``."""
