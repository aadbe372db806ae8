"""`parity.csv`: real rows with the margin that XGBoost gave them, checked again at every load.

One column a feature in the model's order, then `margin`; an empty cell is a missing value. Numbers are written so that
reading them gives the same float32 again.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from engine.errors import ModelError
from engine.scoring.onnx import Model

MAX_BYTES = 16_000_000


def write_parity(features: Sequence[str], matrix: npt.NDArray[np.float32], margins: npt.NDArray[np.float64]) -> bytes:
    """The bytes of `parity.csv`."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*features, "margin"])
    for row, margin in zip(matrix.tolist(), margins.tolist(), strict=True):
        writer.writerow(["" if math.isnan(value) else repr(value) for value in row] + [repr(margin)])
    return out.getvalue().encode()


def read_parity(data: bytes, features: Sequence[str]) -> tuple[list[list[float]], list[float]]:
    """Rows (NaN where missing) and their margins; ModelError when the file is not one for these features."""
    try:
        header, *lines = csv.reader(io.StringIO(data.decode()))
        table = [[float(cell) if cell else np.nan for cell in line] for line in lines]
    except ValueError as error:
        raise ModelError(f"parity.csv can't be read: {error}") from error
    if header != [*features, "margin"] or any(len(row) != len(header) for row in table) or not table:
        raise ModelError("parity.csv does not hold rows of the model's features")
    return [row[:-1] for row in table], [row[-1] for row in table]


def check_parity(model: Model, data: bytes) -> None:
    """ModelError unless the model gives every stored row its very margin: all at once, and some one by one."""
    rows, wanted = read_parity(data, model.features)
    given = model.margins(rows).tolist()
    step = max(1, len(rows) // 20)
    single = [model.margin(row) for row in rows[::step]]
    wrong = sum(a != b for a, b in zip(given, wanted, strict=True))
    if wrong or single != wanted[::step]:
        raise ModelError(
            f"{wrong or 'single'} of {len(rows)} parity rows get another margin here than when the model was made; "
            "onnxruntime or the file differs, so the scores can't be trusted"
        )
