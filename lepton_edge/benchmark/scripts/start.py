"""A process that opens a bundle and answers, and writes down how long and how much that took.

    python start.py TASK.json RESULT.json

Run by its path: importing its package would load modules before the clock of their import starts.
"""

import json
import sys
import time
from pathlib import Path


def peak_mib() -> float:
    """The most memory that this process held so far."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            lines = [line for line in status if line.startswith("VmHWM")]
        return int(lines[0].split()[1]) / 1024
    except (OSError, IndexError):
        # Where there is no such file. Linux would count what the parent held at the start too.
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (1024**2 if sys.platform == "darwin" else 1024)


def main() -> None:
    begun = time.monotonic()
    task = json.loads(Path(sys.argv[1]).read_bytes())
    start = time.monotonic()
    from lepton_edge.runtime import load

    imported = time.monotonic()
    model = load(task["bundle"], task["device"])
    loaded, loaded_peak = time.monotonic(), peak_mib()

    from lepton_edge.benchmark.inputs import examples
    from lepton_edge.runtime.session_model import SessionModel

    assert isinstance(model, SessionModel), "bench refuses the others"
    first, parameters = examples(model, [task["first"]])
    asked = time.monotonic()
    model(first, **parameters)
    answered, answered_peak = time.monotonic(), peak_mib()
    for texts in task["batches"]:
        inputs, parameters = examples(model, texts)
        model(inputs, **parameters)
    found = {
        "process_seconds": begun - task["started"],
        "import_seconds": imported - start,
        "load_seconds": loaded - imported,
        "first_seconds": answered - asked,
        "loaded_mib": loaded_peak,
        "answered_mib": answered_peak,
        "largest_mib": peak_mib(),
    }
    Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
