import numpy as np
import pyarrow as pa

from skewless.models.serving.packing import Layout, concat
from skewless.schema import make_feature, make_schema

LAYOUT = Layout.of(
    make_schema(
        make_feature(name, type_, required=False)
        for name, type_ in {
            "f": pa.float32(),
            "n": pa.int64(),
            "g": pa.float32(),
            "s": pa.string(),
            "ss": pa.list_(pa.string()),
        }.items()
    )
)


def test_pack_and_unpack():
    columns = {
        "f": np.array([1.5, 2], np.float32),
        "n": np.array([2**62, -1]),
        "s": np.array([b"a", b"b"], object),
        "ss": np.array([[b"x"], [b""]], object),
    }
    packed = LAYOUT.pack(columns, 2)
    assert packed.floats.shape == (2, 2)
    found = LAYOUT.unpack(packed)
    assert np.isnan(found.pop("g")).all()
    assert {name: array.tolist() for name, array in found.items()} == {
        name: array.tolist() for name, array in columns.items()
    }


def test_concat_fills_short_lists():
    one = LAYOUT.pack({"ss": np.array([[b"x", b"y"]], object)}, 1)
    two = LAYOUT.pack({"n": np.array([7, 8])}, 2)
    whole = LAYOUT.unpack(concat([one, two], LAYOUT))
    assert whole["ss"].tolist() == [[b"x", b"y"], [b"", b""], [b"", b""]]
    assert whole["n"].tolist() == [np.iinfo(np.int64).min, 7, 8]
    assert concat([one], LAYOUT) is one


def test_put_writes_some_rows():
    packed = LAYOUT.pack({}, 3)
    LAYOUT.put(packed, "g", np.array([1, 2, 3], np.float32), np.array([True, False, True]))
    assert np.nan_to_num(packed.floats, nan=-1).tolist() == [[-1, -1, -1], [1, -1, 3]]
