"""The benchmark: `python -m tests.bench`. See __main__.py."""

import sys
from pathlib import Path

# What the tests have is found by its own name, as it is when pytest runs.
sys.path.insert(0, str(Path(__file__).parent.parent))
