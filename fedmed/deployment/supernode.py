"""``python -m fedmed.deployment.supernode``: a SuperNode that runs this house's fedmed and no other app.

Its arguments are those of ``flower-supernode``.
"""

from fedmed.deployment.flower_app import app_files
from fedmed.flower.supernode import run

if __name__ == "__main__":
    run(app_files())
