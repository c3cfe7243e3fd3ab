"""A worker that does nothing but what it is told by files in a folder, for tests of what starts workers.

    python -m medfuse.testing.rehearsal FOLDER WORDS…

writes FOLDER/NAME.began with a line for each time it began, touches FOLDER/NAME.alive, and waits for
FOLDER/NAME.order (`well`, `fail`, `mistake` or `die`), or for FOLDER/end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from medfuse.core.crew import is_wanted, name_of_worker

POLL_S = 0.05
SAID = {"fail": "this worker cannot go on", "mistake": "this is the user's mistake"}


def rehearse(folder: Path, words: list[str]) -> int:
    name = name_of_worker()
    with open(folder / f"{name}.began", "a", encoding="utf-8") as file:
        file.write(json.dumps(words) + "\n")
    while is_wanted() and not (folder / "end").exists():
        (folder / f"{name}.alive").write_text(str(time.monotonic_ns()))
        order = folder / f"{name}.order"
        if order.exists():
            said = order.read_text(encoding="utf-8").strip()
            order.unlink()
            if said == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            print(f"first of two lines\n{SAID.get(said, 'all is well')}", file=sys.stderr)
            return {"fail": 1, "mistake": 2}.get(said, 0)
        time.sleep(POLL_S)
    return 0


if __name__ == "__main__":
    sys.exit(rehearse(Path(sys.argv[1]), sys.argv[2:]))
