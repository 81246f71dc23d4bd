"""A recipe: what to read, which rows to keep, which features to make, which model to train."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import os
import pathlib
import pickle
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import pyarrow.compute as pc
from apache_beam.internal.cloudpickle import cloudpickle
from google.protobuf.message import Message

from skewless.errors import RecipeError, SkewlessError
from skewless.models.networks import Dnn, Linear, WideAndDeep
from skewless.pipeline.artifacts import digest_of
from skewless.pipeline.code import source_of
from skewless.schema import Schema, format_schema
from skewless.storage import RemotePath, is_remote, path_of
from skewless.transforms.evaluation import Evaluation
from skewless.transforms.features.columns import LABEL, Column, Label
from skewless.transforms.split import SplitByHash, SplitByTime

__all__ = ["Recipe", "load_recipe"]

Network = Linear | Dnn | WideAndDeep

_recipe_folders: set[str] = set()


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One definition of a model's data, features and training.

    Args:
        name: The name of its runs' folder: letters, digits, `-` and `_`.
        source: Where the rows come from: a batch source, such as `ReadCsv` or `ReadBigQuery`.
        label: What to predict: `label("column")...`, or with `preprocessing_fn` the name
            of the feature that is the label.
        split: `SplitByTime` or `SplitByHash`.
        model: `Linear`, `Dnn` or `WideAndDeep`.
        rows: Steps over rows, in order: `Require`, `Where`, `Deduplicate`, `JoinAsOf`,
            `Aggregate`.
        features: Feature name to column: `{"distance": numeric("distance").zscore()}`.
        preprocessing_fn: A plain tf.Transform function, instead of `features`.
        schema: The frozen schema of the rows that enter the graph: a proto, or the path of
            a `schema.pbtxt`, relative to the recipe's file. Inferred when absent.
        evaluation: Slices and thresholds.
        seed: Of the training.
        max_rejected: The share of rejected rows, 0 to 1, above which a run fails.
        stream: Where `skewless stream` reads events of the same columns: `ReadKafka`,
            `ReadPubSub`; it needs no schema of its own.

    Raises:
        RecipeError: If an argument is wrong, or two exclude each other.
    """

    name: str
    source: Any
    label: Label | str
    split: SplitByTime | SplitByHash
    model: Network
    rows: Sequence[Any] = ()
    features: Mapping[str, Column] | None = None
    preprocessing_fn: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    schema: Schema | str | os.PathLike[str] | RemotePath | None = None
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    seed: int = 0
    max_rejected: float = 0.01
    stream: Any = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", str(self.name)):
            raise RecipeError(
                f'Recipe(name="{self.name}"): expected letters, digits, "-" and "_" only'
            )
        self._check("source", hasattr(self._instance(self.source), "input_name"), "sk.ReadCsv(...)")
        streams = self.stream is None or hasattr(self._instance(self.stream), "input_name")
        self._check("stream", streams, 'sk.ReadKafka("topic", ...)')
        self._check(
            "split", isinstance(self.split, SplitByTime | SplitByHash), "sk.SplitByTime(...)"
        )
        self._check("model", isinstance(self.model, Network), "sk.Dnn(...)")
        self._check("evaluation", isinstance(self.evaluation, Evaluation), "sk.Evaluation(...)")
        self._check("rows", isinstance(self.rows, Sequence), "a list of steps")
        object.__setattr__(self, "rows", tuple(self.rows))
        for step in self.rows:
            self._check(
                "rows", hasattr(self._instance(step), "output_schema"), "sk.Require(...)", step
            )
            right = getattr(step, "right", self.source)
            self._check(
                "rows", hasattr(right, "input_name"), "JoinAsOf(sk.ReadCsv(...), ...)", right
            )
        given = self.schema is None or isinstance(self.schema, str | os.PathLike | RemotePath)
        self._check("schema", given or hasattr(self.schema, "feature"), 'a path, "schema.pbtxt"')
        whole = isinstance(self.seed, int) and 0 <= self.seed < 2**32
        self._check("seed", whole, "a whole number from 0 to 2**32 - 1")
        share = isinstance(self.max_rejected, int | float) and 0 <= self.max_rejected <= 1
        self._check("max_rejected", share, "a share from 0 to 1")
        self._check_features()

    def _check_features(self) -> None:
        if (self.features is None) == (self.preprocessing_fn is None):
            raise RecipeError("Recipe: give either features= or preprocessing_fn=, not both")
        if self.features is None:
            self._check("preprocessing_fn", callable(self.preprocessing_fn), "a function")
            self._check("label", isinstance(self.label, str), 'the name of an output, "tips_xf"')
            return
        self._check("label", isinstance(self.label, Label), 'sk.label("column")')
        mapping = isinstance(self.features, Mapping) and bool(self.features)
        self._check("features", mapping, '{"name": sk.numeric("column"), ...}')
        for name, column in self.features.items():
            named = isinstance(name, str) and bool(name)
            self._check("features", named, "names that are texts", name)
            self._check("features", isinstance(column, Column), 'sk.numeric("column")', column)

    @staticmethod
    def _instance(value: Any) -> Any:
        """Return `value`, or None for a class that somebody forgot to call."""
        return None if isinstance(value, type) else value

    def _check(self, argument: str, valid: bool, expected: str, *value: Any) -> None:
        if not valid:
            shown = value[0] if value else getattr(self, argument)
            raise RecipeError(f"Recipe({argument}=...): got {shown!r}; expected {expected}")

    @property
    def label_key(self) -> str:
        """The name of the label among the transformed features."""
        return self.label if isinstance(self.label, str) else LABEL

    def sources(self) -> dict[str, Any]:
        """Return every source by its input's name, the main one first.

        Raises:
            RecipeError: If two inputs have the same name.
        """
        found = {self.source.input_name: self.source}
        for step in self.rows:
            right = getattr(step, "right", None)
            if right is None:
                continue
            if right.input_name in found:
                raise RecipeError(
                    f'two inputs are called "{right.input_name}"; name one of them with name='
                )
            found[right.input_name] = right
        return found

    def describe(self, *fields: str) -> Any:
        """Return the named fields as a canonical JSON value; by default all that make a run."""
        # Where a stream comes from is nothing that a run is made of.
        every = tuple(f.name for f in dataclasses.fields(self) if f.name != "stream")
        names = fields or every
        return _fields(self, names)

    def digest(self) -> str:
        """Return the digest of the whole definition."""
        return digest_of(self.describe())


def _fields(value: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return fields as JSON; a schema given as a path counts by what the file says."""
    fields = {}
    for name in names:
        field = getattr(value, name)
        if name == "schema" and isinstance(field, str | os.PathLike | RemotePath):
            path = path_of(field)
            field = path.read_text() if path.is_file() else None
        fields[name] = _canonical(field)
    return fields


def _canonical(value: Any) -> Any:
    """Return a JSON value that is equal for equal definitions, on every machine."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Message):
        return format_schema(value)
    if isinstance(value, os.PathLike):
        return str(value)
    if isinstance(value, pc.Expression):
        # Its text leaves out the middle of a long list.
        return [str(value), hashlib.sha256(pickle.dumps(value)).hexdigest()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [type(value).__name__, _fields(value, [f.name for f in dataclasses.fields(value)])]
    if isinstance(value, Mapping):
        return {str(k): _canonical(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_canonical(v) for v in value]
    if callable(value):
        return [getattr(value, "__qualname__", type(value).__name__), source_of(value)]
    return repr(value)


def load_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Return the recipe that a Python file defines.

    The file's folder is importable while it runs, as for a script.

    Raises:
        RecipeError: If there is no such file, it fails, or it holds no recipe.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise RecipeError(f"{path}: there is no such recipe; expected a Python file")
    module = _run_file(file)
    found = {id(v): v for v in vars(module).values() if isinstance(v, Recipe)}
    named = getattr(module, "recipe", None)
    if isinstance(named, Recipe):
        return _resolved(named, file)
    if len(found) != 1:
        raise RecipeError(
            f"{path}: found {len(found)} recipes; expected `recipe = skewless.Recipe(...)`"
        )
    return _resolved(next(iter(found.values())), file)


def _resolved(recipe: Recipe, file: pathlib.Path) -> Recipe:
    """Return the recipe with the schema's path taken from the recipe's folder."""
    if isinstance(recipe.schema, str | os.PathLike):
        if is_remote(recipe.schema):
            return dataclasses.replace(recipe, schema=path_of(recipe.schema))
        return dataclasses.replace(recipe, schema=file.parent / recipe.schema)
    return recipe


def _run_file(file: pathlib.Path) -> ModuleType:
    folder = str(file.resolve().parent)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise RecipeError(f"{file}: not a Python file; expected a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    _forget_other_recipes(folder)
    sys.path.insert(0, folder)
    try:
        sys.modules[file.stem] = module
        spec.loader.exec_module(module)
        _pickle_by_value(folder)
    except SkewlessError as error:
        raise type(error)(f"{file}:{_line_of(error, file)}: {error}") from error
    except SyntaxError as error:
        raise RecipeError(f"{error.filename}:{error.lineno}: {error.msg}") from error
    except Exception as error:
        kind = type(error).__name__
        raise RecipeError(f"{file}:{_line_of(error, file)}: {kind}: {error}") from error
    finally:
        sys.path.remove(folder)
    return module


def _forget_other_recipes(folder: str) -> None:
    """Forget the helper modules of recipes in other folders: theirs may have the same names."""
    for name in _modules_in(_recipe_folders - {folder}):
        if name in cloudpickle.list_registry_pickle_by_value():
            cloudpickle.unregister_pickle_by_value(sys.modules[name])
        for one in [one for one in sys.modules if one == name or one.startswith(f"{name}.")]:
            del sys.modules[one]
    _recipe_folders.add(folder)


def _pickle_by_value(folder: str) -> None:
    """Let what a recipe's modules define go to Beam's workers whole.

    A worker elsewhere has skewless, but not the recipe's folder, to import them from.
    """
    for name in _modules_in({folder}):
        cloudpickle.register_pickle_by_value(sys.modules[name])


def _modules_in(folders: set[str]) -> list[str]:
    """Return the names of the modules and packages that lie in folders.

    A package stands for its modules: cloudpickle takes them with it. The program itself and
    skewless, which a recipe in their folder would find there too, are nobody's helpers.
    """
    return [
        name
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] not in ("__main__", "skewless") and _folder_of(module) in folders
    ]


def _folder_of(module: ModuleType) -> str | None:
    """Return the folder that holds a module's file, or a package's folder."""
    file = getattr(module, "__file__", None)
    if not file:
        return None
    path = pathlib.Path(file).absolute()
    return _real(path.parent.parent if path.name == "__init__.py" else path.parent)


@functools.cache
def _real(folder: pathlib.Path) -> str:
    # Thousands of modules lie in some hundred folders, and each asks the disk.
    return str(folder.resolve())


def _line_of(error: Exception, file: pathlib.Path) -> int:
    """Return the last line of `file` that led to `error`."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.lineno for f in frames if pathlib.Path(f.filename) == file and f.lineno]
    return lines[-1] if lines else 1
