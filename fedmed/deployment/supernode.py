"""``python -m fedmed.deployment.supernode``: a SuperNode that runs the fedmed of this house alone.

Its arguments are those of ``flower-supernode``.
"""

from fedmed.core.errors import FedmedError
from fedmed.core.terminal import fail
from fedmed.deployment.flower_app import app_files
from fedmed.flower.supernode import run

if __name__ == "__main__":
    try:
        run(app_files())
    except FedmedError as error:
        fail(error)
