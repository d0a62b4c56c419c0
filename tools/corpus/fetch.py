"""Debian packages by name: asking apt, downloading, unpacking. Nothing is installed or executed."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass


class FetchError(Exception):
    """A failure with one line that says what to do."""


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    archive: str        # the .deb in the cache
    root: str           # the folder it is unpacked in


def require_tools():
    """Fails early where the machine is not a Debian one."""
    for tool in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise FetchError(f"{tool} is missing: run this on Debian, or in a Debian container")


def _run(arguments, **options):
    environment = dict(os.environ, LC_ALL="C")
    return subprocess.run(arguments, capture_output=True, text=True, errors="replace",
                          env=environment, check=False, **options)


def candidate_version(name):
    """The version apt would take, or None where it knows none."""
    found = re.search(r"^\s*Candidate: (\S+)$", _run(["apt-cache", "policy", name]).stdout, re.M)
    return None if found is None or found.group(1) == "(none)" else found.group(1)


def ensure_lists(probe):
    """Updates apt's lists when they do not know even the first package of the list."""
    if candidate_version(probe) is None:
        _run(["apt-get", "update", "-q"])


def _archive_path(cache, name, version):
    escaped = version.replace(":", "%3a")
    folder = os.path.join(cache, "debs")
    prefix = f"{name}_{escaped}_"
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return next((os.path.join(folder, n) for n in sorted(names)
                 if n.startswith(prefix) and n.endswith(".deb")), None)


def download(cache, name):
    """The package in the cache, downloaded if it is not there yet; None where apt has none."""
    version = candidate_version(name)
    if version is None:
        return None
    archive = _archive_path(cache, name, version)
    if archive is None:
        folder = os.path.join(cache, "debs")
        os.makedirs(folder, exist_ok=True)
        result = _run(["apt-get", "download", "-q", f"{name}={version}"], cwd=folder)
        archive = _archive_path(cache, name, version)
        if archive is None:
            reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise FetchError(f"cannot download {name} ({reason}): check the network, "
                             "run 'apt-get update' and try again")
    return Package(name, version, archive, os.path.join(cache, "unpacked", f"{name}_{version}"))


def unpack(package):
    """Unpacks once: into a temporary name first, so that a half unpacked folder never counts."""
    if os.path.isdir(package.root):
        return
    partial = package.root + ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(partial)
    result = _run(["dpkg-deb", "-x", package.archive, partial])
    if result.returncode != 0:
        raise FetchError(f"cannot unpack {package.archive}: delete it and run again")
    os.rename(partial, package.root)


_KNOWN_LICENCES = (
    ("GFDL", r"Free Documentation License"),
    ("LGPL", r"(?:Lesser|Library) General Public License"),
    ("GPL", r"GNU General Public License|\bGPL\b"),
    ("Apache-2.0", r"Apache License"),
    ("Artistic", r"Artistic License"),
    ("PSF", r"Python Software Foundation|PSF LICENSE"),
    ("CC-BY-SA", r"Attribution[- ]Share ?Alike|CC-BY-SA"),
    ("MPL", r"Mozilla Public License"),
    ("BSD", r"Redistribution and use in source and binary forms"),
    ("MIT", r"Permission is hereby granted, free of charge"),
    ("public-domain", r"public domain"),
)


def licence_summary(package):
    """Short names of the licences that the package's copyright file states."""
    folder = os.path.join(package.root, "usr/share/doc")
    names = set()
    for owner in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        path = os.path.join(folder, owner, "copyright")
        if not os.path.isfile(path):
            continue
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
        # A machine readable copyright file names them; an older one is prose.
        stated = re.findall(r"^License:[ \t]*(\S[^\n]{0,60})$", text, re.M)
        names.update(s.strip() for s in stated)
        if not stated:
            names.update(n for n, pattern in _KNOWN_LICENCES if re.search(pattern, text))
    return sorted(names) or ["see the package's copyright file"]
