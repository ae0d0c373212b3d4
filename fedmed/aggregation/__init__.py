"""Aggregation behind which the server sees no single update."""
