"""A partition that was made before."""

from pathlib import Path

import pandas as pd

from fedmed.core.errors import ConfigError, DataError
from fedmed.data.label_files import LabelFile
from fedmed.partition.record import check, sha256
from fedmed.partition.rule import Partition


class Saved(Partition):
    """The partition of a ``partition.csv``, as a run or ``fedmed partition`` leaves it.

    Args:
        file: the file.
        sha256: the hash that it must have; None takes any.

    Raises:
        ConfigError: if there is no such file.
    """

    def __init__(self, file: Path, sha256: str | None) -> None:
        self.file = Path(file).expanduser()
        self.sha256 = sha256
        if not self.file.is_file():
            raise ConfigError(f"partition.file: there is no file {self.file}")

    def assign(self, table: pd.DataFrame, targets: tuple[str, ...]) -> pd.DataFrame:
        """Return the partition, if it is the one meant and fits the table; see Partition."""
        cells = LabelFile.read(self.file, ("patient", "client", "role"))
        client = cells.numbers("client", low=-1)
        cells.refuse(client.isna() | (client % 1 != 0), "client", "a whole number from -1")
        roles = {role: role for role in ("train", "val", "test")}
        cells.text("role")
        assigned = pd.DataFrame(
            {
                "patient": cells.ids("patient", distinct=True),
                "client": client.astype(int),
                "role": cells.codes("role", roles),
            }
        ).sort_values("patient", ignore_index=True)
        found = sha256(assigned)
        if self.sha256 is not None and self.sha256 != found:
            raise DataError(
                f"partition.sha256: {self.file} is another partition: it has the hash {found}"
            )
        try:
            check(assigned, table)
        except DataError as error:
            raise DataError(f"{self.file} does not fit this dataset and split: {error}") from None
        return assigned
