"""What taskrunner adds to a container: a hello-world task beside the same `docker run`, as a ratio.

Rounds are interleaved (ours, docker's, ours, …) so that whatever else the machine does meets both alike.
Needs a Docker Engine; the image is made on the spot.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scripts.busybox_image import imported

IMAGE = "taskrunner-bench:busybox"


def seconds_of(command: list[str], cwd: Path) -> float:
    """Wall time of one command that must succeed."""
    begun = time.perf_counter()
    subprocess.run(
        command, cwd=cwd, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120
    )
    return time.perf_counter() - begun


def measure(image: str, rounds: int) -> dict[str, float]:
    """Medians over `rounds`, after one unmeasured round each."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        task = {"executors": [{"image": image, "command": ["echo", "hello world"]}]}
        (folder / "task.json").write_text(json.dumps(task))
        (folder / "tmp").mkdir()
        ours = [str(Path(sys.executable).with_name("taskrunner")), "run", "task.json"]
        docker = ["docker", "run", "-i", "--read-only", "--rm", "-v", f"{folder}/tmp:/tmp:rw", image]
        docker += ["echo", "hello world"]
        taken: dict[str, list[float]] = {"taskrunner": [], "docker": []}
        for number in range(rounds + 1):
            for name, command in (("taskrunner", ours), ("docker", docker)):
                seconds = seconds_of(command, folder)
                if number:
                    taken[name].append(seconds)
    medians = {f"{name}_seconds": statistics.median(times) for name, times in taken.items()}
    difference = medians["taskrunner_seconds"] - medians["docker_seconds"]
    ratio = medians["taskrunner_seconds"] / medians["docker_seconds"]
    return {**medians, "more_seconds": difference, "ratio": ratio}


def main() -> None:
    """Print the table, and the figures as JSON for scripts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    with imported(IMAGE):
        result = measure(IMAGE, arguments.rounds)
    print("| hello world | median wall s |\n|---|---|")
    print(f"| docker run | {result['docker_seconds']:.3f} |")
    print(f"| taskrunner run | {result['taskrunner_seconds']:.3f} |")
    print(f"\nratio {result['ratio']:.2f}, {result['more_seconds']:.3f} s more")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
