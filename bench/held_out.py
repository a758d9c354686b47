"""What `diagnose` says of every held-out case (tests/held_out*.py): counts, and times.

.venv/bin/python bench/held_out.py [FILE]    FILE: the counts as JSON"""

import json
import sys
import time
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import held_out  # noqa: E402
import held_out_fifth  # noqa: E402
import held_out_fourth  # noqa: E402
import held_out_later  # noqa: E402
import held_out_third  # noqa: E402
import kinds  # noqa: E402
from vae_tutorial.diagnosis import diagnose  # noqa: E402


def ask(case):
    "Names of the findings, those worse than notes apart, and the seconds."
    asked, start = case.make(0), time.thread_time()
    try:
        findings = diagnose(**asked)
    except (TypeError, ValueError) as error:
        return None, [], f"refused: {error}", time.thread_time() - start
    except BaseException as error:  # none of the user's may come through
        return None, [], f"crash: {error!r}", time.thread_time() - start
    worse = [found.name for found in findings if found.level != "note"]
    return worse, [found.name for found in findings], "", time.thread_time() - start


def kind(case, worse, names):
    "How well a fault was named."
    if worse and worse[0] in case.expected:
        return "named first"
    if set(names) & set(case.expected):
        return "named later"
    return "under another name" if worse else "missed"


def count(cases):
    "What is said of all cases of a set, in numbers; what is wrong is printed."
    counts = dict.fromkeys(("named first", "named later", "under another name"), 0)
    counts |= {"missed": 0, "clean": 0, "accused": 0, "refused": 0, "crashed": 0}
    counts |= {"faults": len(cases.FAULTS), "healthy": len(cases.HEALTHY)}
    slowest = 0.0
    for case in [*cases.FAULTS, *cases.HEALTHY, *cases.CRASHERS]:
        worse, names, said, seconds = ask(case)
        slowest = max(slowest, seconds)
        counts["crashed"] += said.startswith("crash")
        if case in cases.FAULTS:
            how = kind(case, worse, names)
        elif case in cases.HEALTHY:
            how = "clean" if worse == [] else "accused" if worse else "refused"
        else:
            continue
        counts[how] += 1
        if how not in ("named first", "clean"):
            print(f"{how}: {case.name}, expected {case.expected}, {names} {said}")
    print(counts | {"slowest": round(slowest, 1)})
    return counts | {"slowest": round(slowest, 1)}


def large():
    "Seconds for a ResNet that makes 64 images of 64 x 64 colour pixels."
    model, x, loss, asked = kinds.HEALTHY["kl-f4 64x64x3"]()
    start = time.thread_time()
    diagnose(model, x, loss, **asked)
    print(
        f"ResNet, 64 x 64 colours, batch {len(x)}: {time.thread_time() - start:.1f} s"
    )


def main():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    large()
    sets = {"first set": held_out, "second set": held_out_later}
    sets |= {"third set": held_out_third, "fourth set": held_out_fourth}
    sets |= {"fifth set": held_out_fifth}
    for name, cases in sets.items():
        counts = count(cases)
        if len(sys.argv) > 1:
            path = Path(sys.argv[1])
            kept = json.loads(path.read_text()) if path.exists() else {}
            kept[name] = kept.get(name, {}) | {"now": counts}
            path.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
