"""Networks: built from config with keyed random weights, loaded, saved and put into messages.

A network takes N×1×H×W float images, or N×F features, and gives N×T logits, one a target.
"""

from fedmed.models.build import build
from fedmed.models.normalization import check_private, use_batch_statistics
from fedmed.models.state import (
    Arrays,
    arrays_of,
    arrays_sha256,
    from_record,
    load,
    shared_names,
    to_record,
)

__all__ = [
    "Arrays",
    "arrays_of",
    "arrays_sha256",
    "build",
    "check_private",
    "from_record",
    "load",
    "shared_names",
    "to_record",
    "use_batch_statistics",
]
