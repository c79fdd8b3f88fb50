"""The squares' world lies beside the tests of evaluation; pictures are drawn of it too."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "evaluation"))
