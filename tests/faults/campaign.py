"""`make faults`: hurts real runs in every way that is known, and checks what the restart makes of it.

The campaign is bounded (--minutes), seeded (trial n of a seed is always the same) and resumable: results are JSON lines, and a
trial that has one is not repeated. Exit status 1 if any trial found a fault.
"""

import argparse
import gc
import hashlib
import json
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ |= {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "DS_ACCELERATOR": "cpu",
    "HF_HUB_OFFLINE": "1",
}
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from launching import ROOT  # noqa: E402
from material import Material  # noqa: E402
from processes import adopt_orphans, alive_descendants, kill  # noqa: E402
from trial import SCENARIOS, Scenario, Skipped, Trial  # noqa: E402
from verdict import Fault  # noqa: E402

for module in ("kills", "starts", "disks", "altered", "stops", "elastic", "commands"):
    __import__(module)

LAUNCHER = "--like-torchrun"
TRIAL_S = 600
"""Seconds after which a trial counts as hanging, whatever it waits for."""


def import_everything() -> None:
    """Import what runs and commands import, so that forked processes start in no time."""
    import accelerate
    import deepspeed
    import deepspeed.runtime.zero.stage3  # noqa: F401
    import transformers.models.bert.modeling_bert  # noqa: F401

    import hbdist.cli
    import hbdist.evaluation.evaluate
    import hbdist.reports.report
    import hbdist.train  # noqa: F401

    assert accelerate.state.PartialState._shared_state == {}
    gc.collect()
    gc.freeze()


def digest_of_code() -> str:
    """Return a digest of hbdist's code: results of other code are not this code's."""
    files = sorted((ROOT / "hbdist").rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def plan(seed: int, only: str) -> Iterator[tuple[int, Scenario]]:
    """Yield the trials' numbers and scenarios: each round has every scenario as often as its share, in a random order."""
    number = 0
    chosen = [one for one in SCENARIOS.values() for _ in range(one.share)]
    for turn in range(10_000):
        order = random.Random(f"{seed}/{turn}").sample(chosen, len(chosen))
        for one in order:
            if re.search(only, one.name):
                yield number, one
            number += 1


def run_trial(number: int, one: Scenario, arguments: argparse.Namespace, material: Material) -> dict[str, Any]:
    """Run one trial in this process and return its result."""
    folder = arguments.work / "trials" / f"{number:05d}"
    shutil.rmtree(folder, ignore_errors=True)
    trial = Trial(one.name, folder, material, random.Random(f"{arguments.seed}/{number}/{one.name}"))
    began = time.monotonic()
    result, fault = "", ""
    try:
        result = one.act(trial)
    except Fault as found:
        result, fault = "FAULT", str(found)
    except Skipped as reason:
        result, fault = "skipped", str(reason)
    except Exception:
        result, fault = "ERROR", traceback.format_exc()[-1500:]
    left = alive_descendants()
    kill(*(process.pid for process in left))
    line = {"trial": number, "scenario": one.name, "family": one.family, "result": result}
    line |= {"fault": fault} if fault else {}
    return line | {"gone_s": round(trial.gone_s, 2), "seconds": round(time.monotonic() - began, 1)} | trial.details


def fork_trial(number: int, one: Scenario, arguments: argparse.Namespace, material: Material) -> int:
    """Run a trial in a forked process, which writes its result beside the trial's folder; return its process id."""
    result = arguments.work / "trials" / f"{number:05d}.json"
    result.unlink(missing_ok=True)
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    try:
        adopt_orphans()
        signal.alarm(TRIAL_S)
        line = run_trial(number, one, arguments, material)
        if line["result"] in ("equal", "close", "refused", "missed", "skipped") and not arguments.keep:
            shutil.rmtree(arguments.work / "trials" / f"{number:05d}", ignore_errors=True)
        unfinished = result.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(line), encoding="utf-8")
        unfinished.replace(result)
    except BaseException:
        traceback.print_exc()
    os._exit(0)


def read_results(path: Path, *, seed: int, code: str) -> list[dict[str, Any]]:
    """Return the results of this seed and code that the file has."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
    return [line for line in map(json.loads, lines) if (line["seed"], line["code"]) == (seed, code)]


def campaign(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Run trials until the time or the plan ends, and return all results of this seed and code."""
    code, deadline = digest_of_code(), time.monotonic() + 60 * arguments.minutes
    arguments.work.mkdir(parents=True, exist_ok=True)
    (arguments.work / "trials").mkdir(exist_ok=True)
    results = read_results(arguments.out, seed=arguments.seed, code=code)
    done = {line["trial"] for line in results}
    import_everything()
    material = Material(arguments.work / f"material-{code}")
    _in_child(material.make)
    todo = ((n, one) for n, one in plan(arguments.seed, arguments.only) if n not in done)
    if arguments.short:
        todo = ((n, one) for n, one in enumerate(SCENARIOS.values()) if one.short and n not in done)
    running: dict[int, tuple[int, Scenario]] = {}
    todo = iter(todo)
    while True:
        more = time.monotonic() < deadline and len(results) < arguments.trials
        while more and len(running) < arguments.jobs and (chosen := next(todo, None)):
            running[fork_trial(*chosen, arguments, material)] = chosen
        if not running:
            return results
        pid, _ = os.wait()
        number, one = running.pop(pid)
        line = {"seed": arguments.seed, "code": code} | _result_of(number, one, arguments)
        results.append(line)
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        print(f"{number:5d} {one.name}: {line['result']} {line.get('fault', '')[:400]}", flush=True)


def _result_of(number: int, one: Scenario, arguments: argparse.Namespace) -> dict[str, Any]:
    path = arguments.work / "trials" / f"{number:05d}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    ended = "the trial's process ended without a result: it hung, or was killed"
    return {"trial": number, "scenario": one.name, "family": one.family, "result": "ERROR", "fault": ended}


def _in_child(work: Any) -> None:
    """Do something that starts threads in a process of its own: this one must stay without, because it forks."""
    if pid := os.fork():
        _, status = os.waitpid(pid, 0)
        if status:
            sys.exit("the campaign's material could not be made")
        return
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def table(results: list[dict[str, Any]]) -> str:
    """Return the results in a table, one row a family."""
    kinds = ("equal", "close", "refused", "missed", "skipped", "FAULT", "ERROR")
    rows = [f"{'':42}{'trials':>8}" + "".join(f"{kind:>9}" for kind in kinds) + f"{'gone (s)':>10}"]
    families = dict.fromkeys(one.family for one in SCENARIOS.values())
    for family in [*families, "all"]:
        lines = [line for line in results if family in (line["family"], "all")]
        counts = [sum(line["result"] == kind for line in lines) for kind in kinds]
        slowest = max((line.get("gone_s", 0) for line in lines), default=0)
        rows.append(f"{family:42}{len(lines):8}" + "".join(f"{count:9}" for count in counts) + f"{slowest:10.1f}")
    return "\n".join(rows)


def summary(results: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Return what was found, for a file beside the code: counts by family, the worst times, the versions."""
    families: dict[str, Counter[str]] = {}
    for line in results:
        families.setdefault(line["family"], Counter())[line["result"]] += 1
    slowest = {
        family: max(line.get("gone_s", 0) for line in results if line["family"] == family) for family in families
    }
    packages = ("torch", "accelerate", "deepspeed", "transformers", "numpy")
    return {
        "code": digest_of_code(),
        "seed": seed,
        "trials": len(results),
        "results": {family: dict(sorted(counts.items())) for family, counts in sorted(families.items())},
        "seconds_until_gone": dict(sorted(slowest.items())),
        "largest_difference_after_a_switch": max((line.get("differs", 0) for line in results), default=0),
        "faults": [line for line in results if line["result"] in ("FAULT", "ERROR")],
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
    }


def look_like_a_launcher() -> None:
    """Start anew with a launcher's name among the arguments: ranks know by it that their parent is one, and end with it."""
    if LAUNCHER not in sys.argv:
        os.execv(sys.executable, [sys.executable, *sys.argv, LAUNCHER])
    sys.argv.remove(LAUNCHER)


def main() -> int:
    """Run the campaign; return 0 if no trial found a fault."""
    look_like_a_launcher()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="no trial begins after this many minutes")
    parser.add_argument("--trials", type=int, default=10**9, help="most trials")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="trials at a time")
    parser.add_argument("--only", default="", help="regular expression of scenarios' names")
    parser.add_argument("--short", action="store_true", help="one trial of the most telling scenarios")
    parser.add_argument("--keep", action="store_true", help="keep the folders of trials without a fault")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/faults", help="folder for runs and results")
    parser.add_argument("--out", type=Path, help="results; default: results.jsonl in the work folder")
    parser.add_argument("--summary", type=Path, help="JSON file for counts by family")
    arguments = parser.parse_args()
    arguments.work = arguments.work.absolute()
    arguments.out = arguments.out or arguments.work / "results.jsonl"
    results = campaign(arguments)
    print(table(results))
    if arguments.summary:
        arguments.summary.write_text(json.dumps(summary(results, arguments.seed), indent=1) + "\n", encoding="utf-8")
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    print(f"seed {arguments.seed}, code {digest_of_code()} ({commit.stdout.strip()}); results in {arguments.out}")
    return int(any(line["result"] in ("FAULT", "ERROR") for line in results))


if __name__ == "__main__":
    sys.exit(main())
