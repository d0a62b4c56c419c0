#!/usr/bin/env python3
"""Runs the fuzz targets of a build (`cmake --preset fuzz`) on copies of their corpora, tests/corpus/NAME.

Prints a line of a Markdown table for each: inputs tried, seconds of processor time, branches seen, inputs
that the committed corpus did not have. What fails or takes long lies in BUILD/findings; the exit status is
1 if there is any.

    tools/fuzz.py build/fuzz --seconds 300 [TARGET ...]
"""
import argparse
import pathlib
import re
import resource
import shutil
import subprocess
import sys

SOURCE = pathlib.Path(__file__).resolve().parent.parent
LARGEST_INPUT = 65536
MEGABYTES = 3000
SLOW_SECONDS = 400  # an input that takes longer is a finding; a busy machine is slow by itself


def processor_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def fuzz(build, name, seconds):
    corpus = build / "corpus" / name
    findings = build / "findings"
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(exist_ok=True)
    shutil.copytree(SOURCE / "tests" / "corpus" / name, corpus, dirs_exist_ok=True)
    known = len(list(corpus.iterdir()))
    before = processor_seconds()
    log = build / f"{name}.log"
    with open(log, "w") as out:
        status = subprocess.run(
            [build / f"{name}_fuzz", f"-max_total_time={seconds}", f"-timeout={SLOW_SECONDS}",
             f"-rss_limit_mb={MEGABYTES}", f"-max_len={LARGEST_INPUT}", "-print_final_stats=1",
             f"-artifact_prefix={findings}/{name}-", corpus],
            stdout=out, stderr=subprocess.STDOUT).returncode
    text = log.read_text(errors="replace")
    runs = re.search(r"stat::number_of_executed_units: (\d+)", text)
    branches = re.findall(r"cov: (\d+)", text)
    print(f"| `{name}` | {int(runs[1]) if runs else 0:,} | {processor_seconds() - before:.0f} "
          f"| {branches[-1] if branches else '?'} | {len(list(corpus.iterdir())) - known} |", flush=True)
    if status != 0:
        print(f"{name}: status {status}, see {log}", file=sys.stderr, flush=True)
    return status == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("--seconds", type=int, default=300, help="of each target, by the clock")
    parser.add_argument("targets", nargs="*", help="default: all")
    options = parser.parse_intermixed_args()
    names = options.targets or sorted(p.name[:-len("_fuzz")] for p in options.build.glob("*_fuzz"))
    print("| Target | Inputs | Processor seconds | Branches | New inputs |\n|---|---|---|---|---|")
    results = [fuzz(options.build, name, options.seconds) for name in names]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
