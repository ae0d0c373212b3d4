"""fedmed: a benchmark of private, federated learning on chest radiographs."""

from importlib.metadata import version

__version__ = version("fedmed")
