"""Let the tests of this folder import blocks.py beside them, and leave out what
needs the C library where the run is not about it.

`make test` names the build in ALLCORES_BUILD_DIR; runs for further Pythons do not,
and need no second look at the C blocks.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from blocks import LIBRARY  # noqa: E402

collect_ignore = []
if not os.environ.get("ALLCORES_BUILD_DIR") and not LIBRARY.exists():
    collect_ignore += ["test_c_blocks.py", "test_examples.py"]


def pytest_report_header():
    if collect_ignore:
        return f"left out, since the C library is not built: {collect_ignore}"
    return None
