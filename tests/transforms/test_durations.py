import datetime

import pytest

from skewless.errors import RecipeError
from skewless.transforms.durations import microseconds


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        ("1us", 1),
        ("20ms", 20_000),
        ("90s", 90_000_000),
        ("5m", 300_000_000),
        (" 6 h ", 21_600_000_000),
        ("2d", 172_800_000_000),
        ("1w", 604_800_000_000),
        ("0s", 0),
        (datetime.timedelta(hours=1, microseconds=3), 3_600_000_003),
        (datetime.timedelta(), 0),
    ],
)
def test_durations_are_microseconds(duration, expected):
    assert microseconds(duration, "Aggregate: tile") == expected


@pytest.mark.parametrize(
    "duration",
    ["", "5", "h", "5 hours", "-5m", "1.5h", "5m 3s", "5M", 5, 5.0, None, datetime.timedelta(-1)],
)
def test_what_is_no_duration_is_refused(duration):
    with pytest.raises(RecipeError) as error:
        microseconds(duration, "JoinAsOf: tolerance")
    assert str(error.value) == (
        f"JoinAsOf: tolerance={duration!r}; expected a timedelta, or a number and one of "
        'us, ms, s, m, h, d, w, as in "6h"'
    )
