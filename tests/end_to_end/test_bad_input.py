"""Whatever is wrong with the input: a person gets one clear line, and no row is lost."""

from __future__ import annotations

import base64
import json
import pathlib
import subprocess
import sys

import pytest

from skewless.launch.command_line import main
from skewless.pipeline.artifacts import RunPaths, latest_run
from skewless.pipeline.batch import read_rejected
from skewless.pipeline.journey import Journey, Result, journey
from skewless.pipeline.stages import Quiet

ROWS = 70_010
RECIPE = """
import skewless as sk

recipe = sk.Recipe(
    name="{name}",
    source=sk.ReadCsv({path!r}),
    features={{
        "{feature}": sk.numeric("{feature}").zscore(),
        "kind": sk.category("kind").hashed(8),
    }},
    label=sk.label("late").greater_than(0),
    split=sk.SplitByHash(by=["id"], train=0.8, eval=0.1),
    model=sk.Linear(epochs=1),
)
"""


def write(
    folder: pathlib.Path, data: bytes | str, *, name: str = "bad", feature: str = "size"
) -> pathlib.Path:
    csv = folder / "rows.csv"
    csv.write_bytes(data.encode() if isinstance(data, str) else data)
    recipe = folder / f"{name}_recipe.py"
    recipe.write_text(RECIPE.format(name=name, path=str(csv), feature=feature))
    return recipe


def answer(
    capsys: pytest.CaptureFixture[str], recipe: pathlib.Path, *more: str, command: str = "transform"
) -> tuple[int, str]:
    """Return the exit code and the line that a person gets; it must be one line."""
    code = main([command, str(recipe), "--output", str(recipe.parent / "runs"), *more])
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("skewless: ")]
    assert len(lines) == 1
    return code, lines[0]


def table(rows: int = 200) -> list[bytes]:
    kinds = (b"a", b"b", b"c")
    return [b"id,size,kind,late,count"] + [
        b"%d,%d.5,%s,%d,%d" % (i, i % 17, kinds[i % 3], i % 2, i % 5) for i in range(1, rows + 1)
    ]


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run over 70,010 rows in which one row of each kind is bad."""
    lines = table(ROWS)
    lines[70_001] = b"70001,1.5,a,1"
    lines[10] = b"10,large,a,1,0"
    lines[11] = b"11,1.5,\xff\xfe,1,0"
    lines[12] = b"12,NaN,a,1,0"
    lines[13] = b"13,inf,a,1,0"
    lines[14] = b"14,1e400,a,1,0"
    lines[15] = b"15,1.5,a,1,9223372036854775808"
    lines[16] = b"16,1.5,a,,0"
    folder = tmp_path_factory.mktemp("dirty")
    recipe = write(folder, b"\n".join(lines), name="dirty")
    return journey(Journey(recipe, folder / "runs", until="transform"), Quiet())


def test_every_bad_row_is_rejected_and_none_is_lost(dirty: Result) -> None:
    ledger = dirty.ledger
    assert ledger.total("rows", "read") == ROWS
    assert ledger.total("rows", "rejected") == 7
    assert ledger.total("rows", "written") == ROWS - 7
    ledger.check()


@pytest.mark.parametrize(
    ("identity", "column", "words"),
    [
        ("70001", "", "column"),
        ("10", "size", "number"),
        ("13", "size", "finite"),
        ("14", "size", "float"),
        ("15", "count", "int"),
        ("16", "late", "value"),
    ],
    ids=["column count", "text", "infinity", "1e400", "2^63", "label missing"],
)
def test_rejected_row_says_where_and_why(
    dirty: Result, identity: str, column: str, words: str
) -> None:
    text = (dirty.paths.root.parents[2] / "rows.csv").read_bytes()
    start = identity.encode() + b","
    (row,) = [r for r in read_rejected(dirty.paths.rejected) if text[r.offset :].startswith(start)]
    assert row.file.endswith("rows.csv")
    assert row.column == column
    assert words in row.reason
    assert identity.encode() in row.payload


def test_invalid_utf8_is_kept_byte_by_byte(dirty: Result) -> None:
    (row,) = [r for r in read_rejected(dirty.paths.rejected) if "UTF-8" in r.reason]
    assert row.column == "kind"
    lines = "".join(p.read_text() for p in dirty.paths.rejected.rglob("*.jsonl")).splitlines()
    (stored,) = [json.loads(x) for x in lines if json.loads(x)["offset"] == row.offset]
    payload = stored.get("payload", "").encode() or base64.b64decode(stored["payload_base64"])
    assert b"11" in payload


def test_nan_is_a_missing_value_and_spoils_nothing(dirty: Result) -> None:
    import tensorflow as tf

    for part in dirty.paths.example_parts("train"):
        records = tf.data.TFRecordDataset(str(part), compression_type="GZIP")
        spec = {"size": tf.io.FixedLenFeature([], tf.float32)}
        sizes = tf.io.parse_example(next(iter(records.batch(ROWS))), spec)["size"].numpy()
        assert (abs(sizes) < 10).all()
        assert abs(sizes.mean()) < 0.01


def test_missing_file(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write(tmp_path, "")
    (tmp_path / "rows.csv").unlink()
    code, line = answer(capsys, recipe)
    assert code == 1
    assert "rows.csv" in line


def test_empty_file(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = answer(capsys, write(tmp_path, ""))
    assert code == 1
    assert "rows.csv" in line
    assert "empty" in line


def test_header_only(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = answer(capsys, write(tmp_path, table(0)[0] + b"\n"))
    assert code == 1
    assert "no row" in line


def test_duplicate_header(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = answer(capsys, write(tmp_path, "id,size,kind,late,size\n1,2,a,0,3\n"))
    assert code in (1, 2)
    assert '"size"' in line


def test_column_all_missing(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [b"id,size,kind,late,count"] + [b"%d,,a,%d,1" % (i, i % 2) for i in range(300)]
    code, line = answer(capsys, write(tmp_path, b"\n".join(lines), name="void"))
    assert code in (1, 2)
    assert '"size"' in line


def test_too_many_rejected_rows_publish_nothing(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = table(300)
    for at in range(1, 20):
        lines[at] = b"%d,1.5,a" % at
    recipe = write(tmp_path, b"\n".join(lines), name="many")
    code, line = answer(capsys, recipe)
    assert code == 1
    assert "19 of 300 rows were rejected" in line
    assert "max_rejected" in line
    run = latest_run(tmp_path / "runs")
    assert not RunPaths(run).rows.exists()
    kept = pathlib.Path(line.split("all of them are in ")[1].split(";")[0])
    assert len(list(kept.rglob("*.jsonl"))) >= 1


def test_unknown_column_names_the_nearest(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write(tmp_path, b"\n".join(table()), name="typo", feature="sise")
    code, line = answer(capsys, recipe)
    assert code == 2
    assert 'did you mean "size"?' in line


def test_function_that_cannot_be_exported(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write(tmp_path, b"\n".join(table()), name="opaque")
    text = recipe.read_text()
    start = text.index("    features=")
    end = text.index("    label=")
    text = text[:start] + "    preprocessing_fn=opaque,\n" + text[end:]
    text = text.replace('label=sk.label("late").greater_than(0)', 'label="late_xf"')
    recipe.write_text(
        """
import tensorflow as tf

def opaque(inputs):
    size = tf.py_function(lambda x: x * 2, [inputs["size"]], tf.float32)
    return {"size_xf": tf.reshape(size, [-1]), "late_xf": inputs["late"]}
"""
        + text
    )
    code, line = answer(capsys, recipe)
    assert code == 2
    assert "opaque" in line


def test_wrong_recipe(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken_recipe.py"
    broken.write_text("import skewless as sk\nrecipe = sk.Recipe(name='x y')\n")
    code, line = answer(capsys, broken)
    assert code == 2
    assert f"{broken}:2" in line


def test_directory_that_holds_another_run(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write(tmp_path, table(0)[0] + b"\n", name="first")
    answer(capsys, recipe, "--run-id", "mine")
    recipe.write_text(recipe.read_text().replace("epochs=1", "epochs=2"))
    code, line = answer(capsys, recipe, "--run-id", "mine")
    assert code == 1
    assert "holds another run" in line
    assert "--run-id" in line


def test_full_disk(tmp_path: pathlib.Path) -> None:
    """The kernel refuses to write more than 100 kB to any file, as a full disk would."""
    recipe = write(tmp_path, b"\n".join(table(60_000)), name="full")
    program = f"""
import resource, sys
from skewless.launch.command_line import main
sys.argv = ["skewless"]
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.exit(main(["transform", {str(recipe)!r}, "--output", {str(tmp_path / "runs")!r}]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 1, done.stderr
    line = [x for x in done.stderr.splitlines() if x.startswith("skewless: ")][-1]
    assert "cannot write" in line
    assert "free some space" in line
    assert not list((tmp_path / "runs").glob("*/*/rows"))
