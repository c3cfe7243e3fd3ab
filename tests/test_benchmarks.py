"""What holds for every script in benchmarks/."""

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_none_hides_a_module_of_the_standard_library_from_the_others():
    names = {path.stem for path in BENCHMARKS.glob("*.py")}
    assert "cascade" in names
    assert not names & sys.stdlib_module_names
