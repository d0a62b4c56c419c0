#!/usr/bin/env python3
"""Kills a training run on several ranks at random moments, resumes it, and looks for losses.

    tools/soak.py build/release/metala --kills 50

A rank, or mpirun itself, is killed (SIGKILL) after a random time, again and again; each time the
others must end within a bound and mpirun must name the rank, and the run goes on with --resume. When
a run reaches its end, its losses and its weights must be, bit for bit, those of a run that nobody
disturbed; then another run begins. Needs mpirun (Open MPI) on Linux.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

SOURCE = pathlib.Path(__file__).resolve().parent.parent
END_WITHIN = 30  # seconds, of all ranks after one was killed


def environment():
    return dict(
        os.environ,
        OMP_NUM_THREADS="1",
        OMPI_MCA_rmaps_base_oversubscribe="1",
        OMPI_MCA_hwloc_base_binding_policy="none",
        OMPI_MCA_btl_vader_single_copy_mechanism="none",
        OMPI_ALLOW_RUN_AS_ROOT="1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
    )


def command(arguments, folder, resume):
    line = ["mpirun", "-n", str(arguments.ranks), arguments.program, "train"]
    line += [str(SOURCE / "docs" / "architecture.md"), "--output", str(folder)]
    line += "--width 32 --layers 2 --heads 2 --glu-width 48 --sequence-length 32".split()
    line += "--sequences 2 --seed 3 --validate-every 50 --keep 2".split()
    line += ["--steps", str(arguments.steps), "--save-every", "10"]
    if arguments.context_ranks > 1:
        line += ["--context-ranks", str(arguments.context_ranks)]
    return line + (["--resume"] if resume else [])


def ranks_of(mpirun):
    """Process ids of mpirun's ranks, by rank."""
    found = {}
    for process in pathlib.Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            parent = int(process.joinpath("stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent != mpirun:
                continue
            variables = process.joinpath("environ").read_bytes().split(b"\0")
        except (OSError, IndexError, ValueError):
            continue  # it has ended in between
        for variable in variables:
            if variable.startswith(b"OMPI_COMM_WORLD_RANK="):
                found[int(variable.split(b"=")[1])] = int(process.name)
    return found


def newest_step(folder):
    steps = [int(p.parent.name[5:]) for p in folder.glob("step-*/COMPLETE")
             if p.parent.name[5:].isdigit()]
    return max(steps, default=0)


def losses(folder):
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(r["step"], r["train/lm_loss"]) for r in records if "train/lm_loss" in r]


def fail(message, err=""):
    sys.exit(f"soak: {message}\n{err}")


def alive(pid):
    try:
        return pathlib.Path("/proc", str(pid), "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for_end(mpirun, ranks, what, log):
    """Until mpirun and its ranks have ended; kills what is left when it takes too long."""
    until = time.monotonic() + END_WITHIN
    while mpirun.poll() is None or any(alive(pid) for pid in ranks.values()):
        if time.monotonic() > until:
            left = [f"rank {rank}" for rank, pid in ranks.items() if alive(pid)]
            left += ["mpirun"] if mpirun.poll() is None else []
            for pid in [mpirun.pid, *ranks.values()]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            fail(f"{' and '.join(left)} still ran {END_WITHIN} s after {what}", log.read_text())
        time.sleep(0.02)


def disturbed(arguments, folder, chance, seconds):
    """Starts or resumes the run and kills something; returns what was killed, None if it ended."""
    log = folder.parent / "log"
    with log.open("w") as err:
        mpirun = subprocess.Popen(command(arguments, folder, newest_step(folder) > 0),
                                  stdout=subprocess.DEVNULL, stderr=err, env=environment())
    moment = chance.uniform(0.1, seconds)
    try:
        status = mpirun.wait(moment)
        if status != 0:
            fail(f"ended with status {status}, undisturbed", log.read_text())
        return None
    except subprocess.TimeoutExpired:
        pass
    ranks = ranks_of(mpirun.pid)
    victim = chance.choice(sorted(ranks) + ["mpirun"])
    name = victim if victim == "mpirun" else f"rank {victim}"
    what = f"{name} after {moment:.2f} s" + (", saving" if any(folder.glob("*.partial")) else "")
    try:
        os.kill(mpirun.pid if victim == "mpirun" else ranks[victim], signal.SIGKILL)
    except ProcessLookupError:
        pass  # it had just ended
    wait_for_end(mpirun, ranks, f"the kill of {what}", log)
    if mpirun.returncode == 0:
        return None
    if victim != "mpirun" and name not in log.read_text():
        fail(f"mpirun did not name {name}", log.read_text())
    return what


def same_as(whole, folder, steps):
    if losses(folder) != losses(whole):
        fail(f"{folder}: the losses are not those of the undisturbed run in {whole}")
    last = f"step-{steps:08}"
    for file in sorted((whole / last).iterdir()):
        if file.suffix == ".safetensors":
            if file.read_bytes() != (folder / last / file.name).read_bytes():
                fail(f"{folder / last / file.name}: differs from the undisturbed run's")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program", help="the metala program")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--context-ranks", type=int, default=1)
    parser.add_argument("--steps", type=int, default=400, help="of a run")
    parser.add_argument("--seed", type=int, default=None, help="of the moments and victims")
    arguments = parser.parse_args()
    arguments.program = str(pathlib.Path(arguments.program).resolve())
    seed = arguments.seed if arguments.seed is not None else random.randrange(1 << 30)
    chance = random.Random(seed)
    print(f"soak: {arguments.kills} kills of {arguments.ranks} ranks, --seed {seed}", flush=True)

    with tempfile.TemporaryDirectory(prefix="metala-soak-") as place:
        whole, folder = pathlib.Path(place, "whole"), pathlib.Path(place, "disturbed")
        begun = time.monotonic()
        undisturbed = subprocess.run(command(arguments, whole, False), env=environment(),
                                     stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if undisturbed.returncode != 0:
            fail("the undisturbed run failed", undisturbed.stderr)
        seconds = max(1.0, (time.monotonic() - begun) / 2)
        kills = runs = 0
        step = 0
        while True:
            folder.mkdir(exist_ok=True)
            # Once all kills are done the last run goes to its end.
            what = disturbed(arguments, folder, chance, seconds if kills < arguments.kills else 3600)
            if newest_step(folder) < step:
                fail(f"step {step} had been saved, now the newest is {newest_step(folder)}")
            step = newest_step(folder)
            if what is not None:
                kills += 1
                print(f"soak: kill {kills}: {what}; newest checkpoint: step {step}", flush=True)
                continue
            same_as(whole, folder, arguments.steps)
            runs += 1
            shutil.rmtree(folder)
            step = 0
            if kills >= arguments.kills:
                break
    print(f"soak: {kills} kills in {runs} runs; every run ended with the losses and the weights of "
          "an undisturbed one")


if __name__ == "__main__":
    main()
