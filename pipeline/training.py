"""From features on disk to an exported model and its evaluation."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow_transform as tft

from skewless import progress
from skewless.errors import RunError
from skewless.models.export import export
from skewless.models.predict import Predictor, read_input_schema
from skewless.models.train import train
from skewless.pipeline.aggregates import aggregates_text
from skewless.pipeline.artifacts import RunPaths, digest_file, write_json
from skewless.pipeline.execution import Execution
from skewless.pipeline.json_rows import json_rows
from skewless.pipeline.recipe import Recipe
from skewless.pipeline.stages import Run
from skewless.schema import parse_schema
from skewless.storage import AnyPath, local_copy, local_output, path_of, remove_tree
from skewless.transforms.aggregate.plans_json import AGGREGATES_FILE
from skewless.transforms.apply import load_transform, local_graph
from skewless.transforms.evaluation.decision import decide
from skewless.transforms.evaluation.evaluate import Evaluate, join_predictions
from skewless.transforms.sources.parquet import ReadParquet

__all__ = ["evaluate_model", "export_model", "train_model"]

_SAMPLE_ROWS = 3
# What a version holds beside the model; with more than that, it is exported anew.
_EXPORTED = ["schema", "recorded requests"]
_OTHER = "(other)"


def train_model(run: Run, recipe: Recipe, warm_start: AnyPath | None = None) -> None:
    """Do the stage `train`: fit the recipe's network on the training examples.

    Args:
        run: With its examples written.
        recipe: For the network and the seed.
        warm_start: An earlier run whose weights to start from.
    """
    paths = run.paths
    earlier = _keras_file(RunPaths(warm_start)) if warm_start else None
    started = _digest(earlier) if earlier else None
    run.perform(
        "train",
        [run.key_of("examples"), recipe.describe("model", "seed", "label"), started],
        [paths.training],
        lambda work: _train(RunPaths(work), paths, recipe, earlier),
    )


def _keras_file(paths: RunPaths) -> AnyPath:
    return paths.training / "model.keras"


def _digest(path: AnyPath) -> str:
    with local_copy(path) as file:
        return digest_file(file)


def _train(
    made: RunPaths, paths: RunPaths, recipe: Recipe, warm_start: AnyPath | None
) -> dict[str, Any]:
    # A network is trained on this machine; what lies elsewhere is fetched once, for all epochs.
    with contextlib.ExitStack() as here:
        result = train(
            recipe.model,
            transform_graph=local_graph(str(paths.transform_graph)),
            train_files=_files(here, paths.example_parts("train")),
            eval_files=_files(here, paths.example_parts("eval")),
            label=recipe.label_key,
            directory=str(here.enter_context(local_output(made.training))),
            seed=recipe.seed,
            warm_start=_files(here, [warm_start])[0] if warm_start else None,
            on_epoch=_show_epoch,
        )
    return {"task": result.task, "classes": result.classes, "history": result.history}


def _files(here: contextlib.ExitStack, paths: Sequence[AnyPath]) -> list[str]:
    """Return the paths of files on this machine, for as long as `here` is open."""
    return [str(here.enter_context(local_copy(path))) for path in paths]


def _show_epoch(epoch: int, logs: Mapping[str, float]) -> None:
    shown = ", ".join(f"{name} {value:.4f}" for name, value in logs.items())
    progress.note(f"epoch {epoch + 1}: {shown}")


def export_model(run: Run, recipe: Recipe) -> AnyPath:
    """Do the stage `export`: one SavedModel with the transform graph inside.

    Returns:
        The version's directory, `model/<version>`.
    """
    aggregates = aggregates_text(recipe, run.paths)
    extra = {} if aggregates is None else {AGGREGATES_FILE: aggregates}
    result = run.perform(
        "export",
        [run.key_of("train"), _EXPORTED, *extra.values()],
        [run.paths.model, run.paths.sample],
        lambda work: _export(RunPaths(work), run, recipe, extra),
    )
    return run.paths.model / str(result["version"])


def _export(made: RunPaths, run: Run, recipe: Recipe, extra: Mapping[str, str]) -> dict[str, Any]:
    trained = run.manifest["stages"]["train"]["result"]
    remove_tree(made.model)
    # As for TF Serving, a later export is a larger number; seconds since 1970 are the custom.
    version = int(time.time())
    graph = local_graph(str(run.paths.transform_graph))
    sample = _sample_rows(run.paths)
    with local_copy(_keras_file(run.paths)) as trained_file, local_output(made.model) as models:
        exported = export(
            model_path=str(trained_file),
            transform_graph=graph,
            label=recipe.label_key,
            task=trained["task"],
            classes=trained["classes"],
            directory=str(models),
            version=version,
            name=recipe.name,
            class_names=_class_names(graph, recipe.label_key, trained["classes"]),
            sample=sample,
            extra={name: text.encode() for name, text in extra.items()},
        )
        _write_sample(made.sample, sample, exported)
    return {"version": version}


def _class_names(transform_graph: str, label: str, classes: int | None) -> list[str] | None:
    """Return the names of a text label's classes: its vocabulary, and one for others if any."""
    graph = tft.TFTransformOutput(transform_graph)
    if graph.vocabulary_file_by_name(label) is None:
        return None
    names = [name.decode("utf-8", "replace") for name in graph.vocabulary_by_name(label)]
    names += [_OTHER] * ((classes or 0) - len(names))
    return names if len(names) == classes else None


def _sample_rows(run: RunPaths) -> pa.RecordBatch:
    """Return the first test rows, or without any the first training rows."""
    for part in [*run.row_parts("test"), *run.row_parts("train")]:
        with part.open("rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=_SAMPLE_ROWS):
                return batch
    raise RunError(f"{run.root}: there are no rows to take a sample of")


def _write_sample(path: AnyPath, sample: pa.RecordBatch, model: str) -> None:
    """Write rows as JSON with just the fields that the model takes."""
    schema = read_input_schema(model)
    path.write_bytes(b"".join(b"%s\n" % row for row in json_rows(sample, schema)))


def evaluate_model(
    run: Run, recipe: Recipe, execution: Execution, baseline: AnyPath | None = None
) -> dict[str, Any]:
    """Do the stage `evaluate`: metrics of the exported model on the test rows, by slice.

    Args:
        run: With its model exported.
        recipe: For slices and thresholds.
        execution: Where to run.
        baseline: An earlier run that `improves` thresholds compare with.

    Returns:
        `metrics`, and the `blessing` with its reasons.
    """
    held = _metrics(RunPaths(baseline)) if baseline else None
    return run.perform(
        "evaluate",
        [run.key_of("export"), recipe.describe("evaluation"), held],
        [run.paths.evaluation],
        lambda work: _evaluate(RunPaths(work), run, recipe, execution, held),
    )


def _metrics(paths: RunPaths) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((paths.evaluation / "metrics.json").read_text())
    return metrics


def _evaluate(
    made: RunPaths, run: Run, recipe: Recipe, execution: Execution, held: Mapping[str, Any] | None
) -> dict[str, Any]:
    paths = run.paths
    trained = run.manifest["stages"]["train"]["result"]
    remove_tree(made.evaluation)
    schema = parse_schema(paths.schema.read_text(), str(paths.schema))
    model = str(paths.newest_model())
    execution.run(
        _EvaluateRows(
            ReadParquet(paths.rows_of("test"), schema=schema),
            _Scorer(model, str(paths.transform_graph), recipe.label_key, recipe.evaluation.slices),
            Evaluate(
                str(made.evaluation),
                trained["task"],
                trained["classes"],
                recipe.evaluation.slices,
            ),
        )
    )
    metrics = _metrics(made)
    blessing = decide(metrics, recipe.evaluation.thresholds, held)
    decided = {"blessed": blessing.blessed, "reasons": list(blessing.reasons)}
    write_json(made.evaluation / "blessing.json", decided)
    return {"metrics": metrics, "blessing": decided}


@dataclasses.dataclass(frozen=True)
class _Scorer:
    """The labels and predictions of raw rows, as `Evaluate` takes them."""

    model: str
    transform_graph: str
    label: str
    slices: Sequence[Sequence[str]]

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        features = load_transform(self.transform_graph)(batch)
        labels = features.column(self.label).flatten().to_numpy(zero_copy_only=False)
        predictions = _predictor(self.model).predict(batch)["prediction"]
        return join_predictions(batch, labels, predictions, self.slices)


@functools.lru_cache(maxsize=1)
def _predictor(model: str) -> Predictor:
    # A bundle is given a new scorer; loading the model takes half a second.
    with local_copy(path_of(model)) as local:
        return Predictor(str(local))


@dataclasses.dataclass(eq=False)
class _EvaluateRows(beam.PTransform):  # type: ignore[misc]
    read: ReadParquet
    scorer: _Scorer
    evaluate: Evaluate

    def expand(self, begin: beam.pvalue.PBegin) -> Any:
        rows = (begin | "ReadTest" >> self.read).rows
        scored = rows | "Score" >> beam.Map(self.scorer.score).with_output_types(pa.RecordBatch)
        return scored | self.evaluate
