"""A recipe's row steps: what they know of the schemas, and how they are wired."""

import datetime
import pathlib
import pickle
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.pipeline import PipelineVisitor

import skewless as sk
from skewless.errors import RecipeError
from skewless.pipeline.rows import ReadRows, joined_columns, rows_schema, with_schemas
from skewless.schema import arrow_schema, is_required, make_feature, make_schema
from skewless.transforms.rows import Rejected

UTC = pa.timestamp("s", "UTC")
SCHEMA = make_schema(
    [
        make_feature("origin", pa.string(), required=False),
        make_feature("departed", UTC, required=True),
        make_feature("scheduled", UTC, required=True),
        make_feature("delay", pa.float32(), required=False),
    ]
)
HOUR = 3600
# Origin, hour of departure, delay; scheduled half an hour earlier.
FLIGHTS = [("JFK", 0, 10), ("JFK", 1, 20), ("EWR", 1, 5), ("JFK", 2, 60), ("EWR", 3, None)]


def delays(**given: Any) -> sk.Aggregate:
    arguments: dict[str, Any] = {
        "by": ["origin"],
        "known_at": "departed",
        "tile": "1h",
        "delay_mean": sk.mean("delay", over=["1h", "2h"]),
        "departures": sk.count(over="2h"),
        **given,
    }
    return sk.Aggregate(**arguments)


def recipe(*rows: Any, path: Any = "flights.csv", time: str | None = "scheduled") -> sk.Recipe:
    written = sk.Recipe(
        name="flights",
        source=sk.ReadCsv(str(path), event_time=time, name="flights"),
        rows=list(rows),
        features={"mean": sk.numeric("delay_mean_2h").zscore()},
        label=sk.label("delay").greater_than(15),
        split=sk.SplitByHash(by=["origin"]),
        model=sk.Linear(epochs=1),
    )
    return with_schemas(written, {"flights": SCHEMA}, None)


def test_the_time_of_the_source_is_filled_in_and_the_columns_are_known() -> None:
    typed = recipe(delays())
    assert typed.rows[0].at == "scheduled"
    schema = rows_schema(typed)
    assert arrow_schema(schema) == pa.schema(
        [
            *arrow_schema(SCHEMA),
            ("delay_mean_1h", pa.float32()),
            ("delay_mean_2h", pa.float32()),
            ("departures", pa.int64()),
        ]
    )
    assert [is_required(feature) for feature in schema.feature[-3:]] == [False, False, True]


def test_a_time_that_a_step_gives_stays() -> None:
    assert recipe(delays(at="departed")).rows[0].at == "departed"


def message(*rows: Any, time: str | None = "scheduled") -> str:
    with pytest.raises(RecipeError) as error:
        rows_schema(recipe(*rows, time=time))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_without_any_time_it_is_an_error() -> None:
    assert message(delays(), time=None) == (
        'Aggregate "origin@1h": as of when rows are to know is not said; give at= here, '
        "or event_time= to the source"
    )


def test_unknown_columns_are_named_with_the_nearest() -> None:
    assert message(delays(by=["orign"])) == (
        'Aggregate "orign@1h" by=: there is no column "orign"; did you mean "origin"?'
    )
    assert message(delays(delay_mean=sk.mean("dely", over="2h"))) == (
        'Aggregate(delay_mean=mean("dely", over=\'2h\')): there is no column "dely"; '
        'did you mean "delay"?'
    )
    assert message(delays(delay_mean=sk.mean("delay", over="2h"))) == (
        'features["mean"]: there is no column "delay_mean_2h"; did you mean "delay_mean"?'
    )


def test_two_steps_that_give_one_column_are_an_error() -> None:
    assert message(delays(), delays(by=[], delay_mean=sk.mean("delay", over="3h"))) == (
        'Aggregate "all@1h": there are two columns "departures"; call one otherwise'
    )


def test_columns_that_steps_add_are_not_the_source_s_own() -> None:
    typed = recipe(delays())
    added = {"delay_mean_1h", "delay_mean_2h", "departures"}
    assert joined_columns(typed, {"flights": SCHEMA}) == added


def test_the_digest_follows_every_part_of_an_aggregate() -> None:
    steps = [
        delays(),
        delays(tile="30m"),
        delays(by=[]),
        delays(at="departed"),
        delays(arrived_at="departed"),
        delays(arrived_at="departed", corrected=True),
        delays(arrived_at="departed", lateness="1h"),
        delays(departures=sk.count(over="3h")),
        delays(departures=sk.count("delay", over="2h")),
        delays(departures=sk.count(over="2h", where=sk.field("delay") > 1)),
        delays(departures=sk.count(over="2h", where=sk.field("delay") > 2)),
        delays(departures=sk.distinct_count("delay", over="2h")),
        delays(departures=sk.distinct_count("delay", over="2h", exact_up_to=99)),
    ]
    assert len({recipe(step).digest() for step in steps}) == len(steps)
    assert recipe(delays()).digest() == recipe(delays()).digest()


def read(folder: pathlib.Path, *steps: Any) -> list[dict[str, Any]]:
    """Run the row steps of a recipe over the flights and return its rows, in their order."""
    path = folder / "flights.csv"
    lines = ["origin,departed,scheduled,delay"]
    for origin, at, delay in FLIGHTS:
        times = [
            datetime.datetime.fromtimestamp(HOUR * when, datetime.UTC).strftime("%FT%TZ")
            for when in (at, at - 0.5)
        ]
        lines.append(f"{origin},{times[0]},{times[1]},{'' if delay is None else delay}")
    path.write_text("\n".join(lines) + "\n")
    typed = recipe(*steps, path=path)
    out = folder / "out"
    out.mkdir()
    with beam.Pipeline("FnApiRunner") as pipeline:
        splits = pipeline | ReadRows(typed, rows_schema(typed))
        for name in ("train", "eval", "test"):
            getattr(splits, name) | name >> beam.Map(keep, str(out), name)
        for n, rejected in enumerate(splits.rejected):
            rejected | f"Rejected{n}" >> beam.Map(keep, str(out), f"rejected{n}")
    found = [pickle.loads(file.read_bytes()) for file in out.iterdir()]
    rows = [row for one in found if isinstance(one, pa.RecordBatch) for row in one.to_pylist()]
    assert len(rows) + sum(isinstance(one, Rejected) for one in found) == len(FLIGHTS)
    return sorted(rows, key=lambda row: row["_offset"])


def partitions(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, size: int | None) -> Any:
    """Return in how many parts each step of a recipe brings rows of so many bytes together."""
    path = folder / "flights.csv"
    path.write_text("origin,departed,scheduled,delay\n")
    right = sk.ReadCsv(str(path), schema=SCHEMA, event_time="departed", name="flights")
    typed = recipe(
        sk.Deduplicate(["origin"]),
        delays(),
        sk.Deduplicate(["delay"], partitions=3),
        sk.JoinAsOf(right, by=["origin"], prefix="right_"),
        path=path,
    )
    monkeypatch.setattr(sk.ReadCsv, "estimate_size", lambda _: size)
    pipeline = beam.Pipeline("FnApiRunner")
    pipeline | ReadRows(typed, rows_schema(typed))
    found: dict[str, Any] = {}

    class Visitor(PipelineVisitor):
        def enter_composite_transform(self, node: Any) -> None:
            if hasattr(node.transform, "partitions"):
                found[node.full_label.rpartition("/")[2]] = node.transform.partitions

    pipeline.visit(Visitor())
    return found


def test_partitions_follow_the_size_of_the_source(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = ("Deduplicate", "AggregateTogether", "Deduplicate2", "JoinAsOf")
    for size, expected in (
        (100 << 30, (400, 400, 3, 800)),
        (1 << 40, (4_096, 4_096, 3, 4_096)),
        (None, (16, 64, 3, 16)),
        # The right side is small: it goes to all.
        (1 << 20, (16, 64, 3, None)),
    ):
        with monkeypatch.context() as patch:
            found = partitions(tmp_path, patch, size)
        assert found == dict(zip(labels, expected, strict=True)), size


def keep(batch: Any, folder: str, name: str) -> None:
    (pathlib.Path(folder) / f"{name}-{id(batch)}").write_bytes(pickle.dumps(batch))


def test_rows_of_a_recipe_have_the_columns_of_their_aggregates(tmp_path: pathlib.Path) -> None:
    # A step over a column of another step, and one of all events.
    known = {"known_at": "departed", "at": "departed", "tile": "1h"}
    worst = sk.Aggregate(by=[], **known, worst=sk.max("delay_mean_1h", over="4h"))
    everywhere = sk.Aggregate(by=[], known_at="departed", tile="1h", total=sk.count(over="4h"))
    rows = read(tmp_path, delays(at="departed"), worst, everywhere)
    # The label is missing in the last flight.
    assert [row["origin"] for row in rows] == ["JFK", "JFK", "EWR", "JFK"]
    assert [row["delay_mean_1h"] for row in rows] == [None, 10, None, 20]
    assert [row["delay_mean_2h"] for row in rows] == [None, 10, None, 15]
    assert [row["departures"] for row in rows] == [0, 1, 0, 2]
    assert [row["worst"] for row in rows] == [None, None, None, 10]
    assert [row["total"] for row in rows] == [0, 0, 0, 1]
