"""Stream events of ever new keys and see that state stays bounded: python -m tests.benchmarks.soak.

Every plane is a new one, so nothing is ever merged; a day of flights goes by every few seconds.
Prints memory and the size of the store every minute, and says whether they became flat.
"""

# ruff: noqa: T201  (it is a command: what it prints is its result)

from __future__ import annotations

import datetime
import json
import os
import pathlib
import sys
import tempfile
import threading
import time
from typing import Any

from skewless.pipeline.execution import Execution
from skewless.pipeline.live import NewestRun, graph_of, live_rows
from skewless.pipeline.recipe import load_recipe
from skewless.pipeline.streaming import StreamRows
from skewless.transforms.live.process import Outputs
from tests.benchmarks.stream_source import Lines, ReadLines
from tests.benchmarks.streaming import flights_run

MINUTES = 20
EVENTS_A_SECOND = 1_000
EVENTS_A_DAY = 10_000
FLAT = 1.1
_BEGAN = datetime.datetime(2013, 2, 1, tzinfo=datetime.UTC)
_ROW = {
    "year": 2013, "month": 2, "day": 1, "dep_time": 517, "sched_dep_time": 515, "dep_delay": 2,
    "arr_time": 830, "sched_arr_time": 819, "arr_delay": 11, "carrier": "UA", "origin": "EWR",
    "dest": "IAH", "air_time": 227, "distance": 1400, "hour": 5, "minute": 15,
}  # fmt: skip


class NewKeys(Lines):
    """Flights of planes that nobody has seen before, made when they are asked for."""

    def due(self, total: int) -> int:
        """Return how many have come by now; at the end there are no more."""
        return min(total, int((time.time() - self.began) * self.rate))

    def lines(self) -> Any:
        """Return them as a list would be."""
        return _Made(int(self.path))


class _Made:
    """Lines by number."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, at: slice) -> list[bytes]:
        return [_line(number) for number in range(*at.indices(self._count))]


def _line(number: int) -> bytes:
    when = _BEGAN + datetime.timedelta(days=number / EVENTS_A_DAY)
    hour = when.replace(minute=0, second=0, microsecond=0).isoformat()
    row = {**_ROW, "minute": when.minute, "flight": number, "tailnum": f"N{number}"}
    return json.dumps({**row, "time_hour": hour}).encode()


def main(minutes: float = MINUTES) -> int:
    """Stream, watch, and say whether memory and store became flat."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        run, recipe = flights_run(folder)
        address = str(folder / "online.db")
        live = live_rows(load_recipe(recipe), run, folder, Execution(), keep="1h", remember="1h")
        columns = [f.name for f in live.schema.feature] + [f.name for f in live.last.feature]
        graph = graph_of(NewestRun(str(run), tuple(columns)))
        outputs = Outputs(graph, str(folder / "out"), live.at, 0)
        count = int(minutes * 60 * EVENTS_A_SECOND)
        lines = NewKeys(str(count), EVENTS_A_SECOND, time.time())
        seen: list[tuple[float, float, float]] = []
        stop = threading.Event()
        watch = threading.Thread(target=_watch, args=(folder, seen, stop))
        watch.start()
        source = ReadLines(lines=lines, schema=live.schema)
        Execution().run(StreamRows(source, live, address, outputs))
        stop.set()
        watch.join()
    third = len(seen) // 3
    grown = [
        sum(one[at] for one in seen[-third:]) / sum(one[at] for one in seen[third : 2 * third])
        for at in (1, 2)
    ]
    told = f"memory grew {grown[0]:.3f}x, the store {grown[1]:.3f}x, from the second third on"
    print(f"{told}: {'flat' if max(grown) <= FLAT else 'NOT flat'}")
    return int(max(grown) > FLAT)


def _watch(folder: pathlib.Path, seen: list[tuple[float, float, float]], stop: Any) -> None:
    began = time.monotonic()
    while not stop.wait(15):
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
        memory = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        store = sum(path.stat().st_size for path in folder.glob("online.db*")) / 2**20
        seen.append(((time.monotonic() - began) / 60, memory, store))
        at, mb, held = seen[-1]
        print(f"{at:5.2f} min: {mb:6.0f} MB of memory, {held:6.1f} MB of store", flush=True)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else MINUTES))
