"""Will the passenger tip more than a fifth of the fare? With a TFX module file as it is."""

from __future__ import annotations

import data
import preprocessing

import skewless as sk

recipe = sk.Recipe(
    name="taxi",
    source=sk.ReadParquet(data.trips_parquet()),
    schema="schema.pbtxt",
    rows=[sk.Where(sk.field("fare") > 0)],
    preprocessing_fn=preprocessing.preprocessing_fn,
    label="tips_xf",
    split=sk.SplitByHash(by=["trip_id"], train=0.7, eval=0.15),
    model=sk.WideAndDeep(hidden=[32, 16], epochs=6, batch_size=256),
    evaluation=sk.Evaluation(
        slices=["payment_type"],
        thresholds=[sk.at_least("auc", 0.75)],
    ),
    seed=1,
)
