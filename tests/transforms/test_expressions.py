import datetime

import pyarrow as pa
import pytest

from skewless.errors import RecipeError
from skewless.transforms.expressions import evaluate, evaluate_condition, field

BATCH = pa.record_batch({"distance": [50, None, 200], "dest": ["BOS", "LAX", None]})
EMPTY = BATCH.slice(0, 0)
WHERE = 'Aggregate "a" where='


def test_an_expression_has_an_answer_for_each_row_of_a_batch_or_table():
    for rows in (BATCH, pa.Table.from_batches([BATCH])):
        assert evaluate(field("distance") + 1, rows, WHERE).to_pylist() == [51, None, 201]
    chunks = pa.Table.from_batches([BATCH, EMPTY, BATCH])
    assert evaluate(field("distance"), chunks, WHERE).to_pylist() == [50, None, 200] * 2
    assert evaluate(field("distance") * 2, EMPTY, WHERE).type == pa.int64()


def test_an_expression_of_no_column_is_the_same_for_all_rows():
    assert evaluate(pa.compute.scalar(5), BATCH, WHERE).to_pylist() == [5, 5, 5]
    assert evaluate_condition(pa.compute.scalar(True), BATCH, WHERE).to_pylist() == [True] * 3


def test_times_are_computed_with():
    times = pa.record_batch({"at": pa.array([0, None], pa.timestamp("s", "UTC"))})
    later = field("at") + pa.scalar(datetime.timedelta(minutes=1))
    found = evaluate(later, times, WHERE)
    assert found.cast(pa.int64()).to_pylist() == [60_000_000, None]


def test_many_rows_keep_their_order():
    rows = pa.record_batch({"n": pa.array(range(200_000))})
    assert evaluate(field("n") + 0, rows, WHERE).equals(rows.column("n"))


def test_a_condition_is_true_false_or_null():
    found = evaluate_condition(field("distance") > 100, BATCH, WHERE)
    assert found.to_pylist() == [False, None, True]
    assert evaluate_condition(field("dest").isin(["BOS"]), EMPTY, WHERE).type == pa.bool_()


def test_what_is_no_condition_is_refused():
    with pytest.raises(RecipeError) as error:
        evaluate_condition(field("distance") + 1, EMPTY, WHERE)
    assert str(error.value) == (
        f'{WHERE}: gives int64; expected a condition, as in field("distance") > 100'
    )


def test_an_unknown_column_is_named_with_the_nearest():
    with pytest.raises(RecipeError) as error:
        evaluate(field("distanc") > 100, BATCH, WHERE)
    assert str(error.value) == (f'{WHERE}: there is no column "distanc"; did you mean "distance"?')


def test_errors_are_one_line_however_long_the_expression():
    for expression in (
        field("des").isin(["BOS", "LAX"]),
        field("dest") + field("distance"),
        pa.compute.if_else(field("dest").isin(["BOS", "LAX"]), 1, 2),
    ):
        with pytest.raises(RecipeError) as error:
            evaluate_condition(expression, BATCH, f"Where({expression})")
        assert "\n" not in str(error.value)
