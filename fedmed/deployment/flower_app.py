"""The Flower app of fedmed: its description alone, since every machine has fedmed installed."""

from importlib.metadata import version
from pathlib import Path

PROJECT = """[project]
name = "fedmed"
version = "{version}"

[tool.flwr.app]
publisher = "fedmed"
fab-include = ["/README.md"]

[tool.flwr.app.components]
serverapp = "fedmed.server.app:app"
clientapp = "fedmed.client.app:app"

[tool.flwr.app.config]
overrides = ""
"""
README = "No code travels: each machine runs the fedmed that is installed there.\n"


def app_files() -> dict[str, bytes]:
    """Return the files of the app, by path."""
    project = PROJECT.format(version=version("fedmed"))
    return {"pyproject.toml": project.encode(), "README.md": README.encode()}


def write_app(folder: Path) -> Path:
    """Write the folder that ``flwr run`` takes, and return it.

    Args:
        folder: made if absent; its files are written anew, since ``flwr run`` changes them.
    """
    folder.mkdir(exist_ok=True)
    for name, content in app_files().items():
        (folder / name).write_bytes(content)
    return folder
