"""Compare the test AUC of a finished flights run with scikit-learn's gradient boosting.

Both learn from the same rows and the same raw columns: those that the exported model
takes. Run as: python tests/benchmarks/auc_flights.py RUN_DIR
"""

# ruff: noqa: T201  (it is a script: what it prints is its result)

from __future__ import annotations

import pathlib
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from skewless.models.predict import Predictor
from skewless.schema import column_names

LABEL, LATE_AFTER = "arr_delay", 15
AT_ONCE = 16_384


def read_split(run: pathlib.Path, split: str) -> pa.Table:
    files = sorted((run / "rows" / split).glob("*.parquet"))
    if not files:
        raise SystemExit(f"{run}/rows/{split} holds no *.parquet; is {run} a finished run?")
    return pa.concat_tables([pq.read_table(path) for path in files], promote_options="default")


def as_numbers(train: pa.Table, test: pa.Table, names: list[str]) -> list[np.ndarray]:
    """Return both tables as matrices; a string becomes its place among those in training."""
    columns: list[list[np.ndarray]] = [[], []]
    for name in names:
        is_text = pa.types.is_string(train.schema.field(name).type)
        values = pc.unique(train[name]).drop_null().sort() if is_text else None
        for table, into in zip((train, test), columns, strict=True):
            column = table[name]
            if values is not None:
                column = pc.index_in(column, value_set=values)
            elif pa.types.is_timestamp(column.type):
                column = column.cast(pa.int64())
            into.append(column.cast(pa.float64(), safe=False).to_numpy())
    return [np.stack(matrix, axis=1) for matrix in columns]


def labels(table: pa.Table) -> np.ndarray:
    return pc.greater(table[LABEL], LATE_AFTER).to_numpy()


def main(run: pathlib.Path) -> None:
    predictor = Predictor(str(run / "model"))
    names = column_names(predictor.schema)
    train, test = read_split(run, "train"), read_split(run, "test")
    print(f"{train.num_rows:,} training rows, {test.num_rows:,} test rows, {len(names)} columns")
    print(f"columns: {', '.join(names)}")

    started = time.perf_counter()
    batches = test.to_batches(max_chunksize=AT_ONCE)
    ours = np.concatenate([predictor.predict(batch)["prediction"] for batch in batches])
    print(f"skewless      AUC {roc_auc_score(labels(test), ours):.4f}", end="")
    print(f"  ({time.perf_counter() - started:.1f} s to predict)")

    started = time.perf_counter()
    known, asked = as_numbers(train, test, names)
    texts = [pa.types.is_string(train.schema.field(name).type) for name in names]
    boosted = HistGradientBoostingClassifier(categorical_features=texts, random_state=0)
    boosted.fit(known, labels(train))
    theirs = boosted.predict_proba(asked)[:, 1]
    print(f"scikit-learn  AUC {roc_auc_score(labels(test), theirs):.4f}", end="")
    print(f"  ({time.perf_counter() - started:.1f} s to train and predict)")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: python {sys.argv[0]} RUN_DIR")
    main(pathlib.Path(sys.argv[1]))
