"""What C++ code writes to standard error, kept from the screen."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

__all__ = ["native_notices_hidden"]


@contextlib.contextmanager
def native_notices_hidden() -> Iterator[None]:
    """Hide what C++ code writes to standard error, unless the block fails.

    While it is loaded, TensorFlow writes a screenful about this machine's hardware, before
    any setting of its log can take effect.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as notices:
        kept = os.dup(2)
        os.dup2(notices.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(kept, 2)
            notices.seek(0)
            sys.stderr.write(notices.read().decode("utf-8", "replace"))
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
