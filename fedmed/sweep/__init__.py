"""``python -m fedmed.run -m …``: a grid of runs, each a cell, here or on Slurm.

What there is to do is read from the run directories and nothing else, so a grid that is launched
again, or twice at once, or in parts, does each cell once.
"""
