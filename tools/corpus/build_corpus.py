#!/usr/bin/env python3
"""Builds an English training corpus from the documentation in Debian packages.

Writes train.jsonl, valid.jsonl and manifest.json. The same package versions give the same bytes.
"""

import argparse
import datetime
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import clean            # noqa: E402  (found through the line above, wherever this is run from)
import documents        # noqa: E402
import fetch            # noqa: E402

VERSION = "1.0"
MIN_DOCUMENT = 200      # characters of prose; less is a stub
VALID_PERCENT = 1


@dataclass(frozen=True)
class Entry:
    """One line of the package list."""
    name: str
    only: str | None = None     # regular expressions on the path inside the package
    drop: str | None = None


@dataclass
class Tally:
    """What became of one package."""
    package: fetch.Package
    licences: list
    files: int = 0
    bytes_in: int = 0
    documents: int = 0
    bytes_out: int = 0
    duplicates: int = 0


def parse_packages(text):
    """The entries of a package list: "name [only=REGEX] [drop=REGEX]", "#" starts a comment."""
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition(" #")[0].split() if not line.startswith("#") else []
        if not words:
            continue
        options = dict(word.partition("=")[::2] for word in words[1:])
        if not options.keys() <= {"only", "drop"}:
            raise fetch.FetchError(f"line {number} of the package list: only 'only=' and 'drop=' "
                                   "may follow a name; correct the line")
        entries.append(Entry(words[0], **options))
    return entries


class Progress:
    """One line per package, or a bar that is redrawn where a person is watching."""

    def __init__(self, total):
        self._total, self._stream = total, sys.stderr
        self._live = self._stream.isatty()
        self._start = time.monotonic()
        self._bytes = 0
        self._rate = ""

    def step(self, done, label, bytes_in):
        """A package is done."""
        self._bytes += bytes_in
        seconds = max(time.monotonic() - self._start, 1e-3)
        self._rate = f"{self._bytes / 1e6:.1f} MB read, {self._bytes / 1e6 / seconds:.1f} MB/s"
        if self._live:
            self._draw(done, label)
        else:
            self._stream.write(f"{done}/{self._total} {label}  {self._rate}\n")
            self._stream.flush()

    def within(self, done, label, files, total):
        """So many files of the package at hand are done; only a person wants to know."""
        if self._live and files % 50 == 0:
            self._draw(done, f"{label} {files}/{total}")

    def _draw(self, done, label):
        filled = 24 * done // self._total
        bar = "#" * filled + "." * (24 - filled)
        self._stream.write(f"\r\033[K[{bar}] {done}/{self._total} {label[:36]}  {self._rate}")
        self._stream.flush()

    def note(self, message):
        self._stream.write(("\r\033[K" if self._live else "") + message + "\n")

    def close(self):
        if self._live:
            self._stream.write("\n")


def tool_digest():
    """Changes whenever a module here does, so that no extract of an older tool is reused."""
    digest = hashlib.sha256()
    for name in ("clean", "documents", "extract_dict", "extract_html", "extract_man",
                 "extract_text"):
        with open(os.path.join(HERE, name + ".py"), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()[:16]


def _ignore_interrupts():
    """In a worker: the parent alone answers to Ctrl-C, with one line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _extract_file(job):
    """Runs in a worker: the documents of one file, each paragraph with its keys."""
    root, path, kind = job
    try:
        found = documents.read_documents(root + path, path, kind)
    except (OSError, EOFError, ValueError, AssertionError) as error:
        return [], f"{path}: {type(error).__name__}"
    return [
        (source, [(block_kind, text, clean.paragraph_keys(text) if block_kind == "p" else [])
                  for block_kind, text in blocks])
        for source, blocks in found], None


def extract_package(pool, package, entry, cache, digest, progress, number):
    """Extracts a package into a file of the cache, unless that is done already; its path."""
    filters = hashlib.sha256(f"{entry.only}|{entry.drop}".encode()).hexdigest()[:8]
    path = os.path.join(cache, "extracted",
                        f"{package.name}_{package.version}_{digest}_{filters}.jsonl")
    if os.path.isfile(path):
        return path
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fetch.unpack(package)
    files = documents.list_files(package.root, entry.only, entry.drop)
    bytes_in = sum(os.path.getsize(package.root + name) for name, _ in files)
    header = {"files": len(files), "bytes_in": bytes_in,
              "licences": fetch.licence_summary(package)}
    with open(path + ".partial", "w", encoding="utf-8") as out:
        out.write(json.dumps(header) + "\n")
        jobs = [(package.root, name, kind) for name, kind in files]
        # imap keeps the order of the jobs, whichever worker is the faster one.
        results = pool.imap(_extract_file, jobs, chunksize=8)
        for done, (found, problem) in enumerate(results, 1):
            progress.within(number - 1, package.name, done, len(jobs))
            if problem:
                progress.note(f"skipped {package.name}{problem}")
            for document in found:
                out.write(json.dumps(document, ensure_ascii=False) + "\n")
    os.rename(path + ".partial", path)
    return path


def fresh_blocks(blocks, seen):
    """The blocks without paragraphs met before, and without headings that lost their text."""
    kept, heading, duplicates = [], None, 0
    for kind, text, keys in blocks:
        if kind == clean.HEADING:
            heading = text
        elif not seen.is_new(keys):
            duplicates += 1
        else:
            if heading:
                kept.append((clean.HEADING, heading))
                heading = None
            kept.append((kind, text))
    return kept, duplicates


def is_validation(source):
    """A fixed share of the documents, by nothing but their name without the version."""
    value = int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "big")
    return value % 10000 < 100 * VALID_PERCENT


def _line(source, blocks):
    text = "\n\n".join(text for _, text in blocks)
    return json.dumps({"text": text, "source": source}, ensure_ascii=False) + "\n"


class Writer:
    """Writes both outputs. Validation waits for the end, when all of training is known."""

    def __init__(self, folder):
        os.makedirs(folder, exist_ok=True)
        self._folder = folder
        self._seen = clean.Seen()
        self._train_headings = set()
        self._validation = []
        self._train = open(self._path("train.jsonl.partial"), "w", encoding="utf-8", newline="\n")
        self.counts = {"train": 0, "valid": 0}

    def _path(self, name):
        return os.path.join(self._folder, name)

    def add(self, tally, path, blocks):
        kept, duplicates = fresh_blocks(blocks, self._seen)
        tally.duplicates += duplicates
        size = sum(len(text) for kind, text in kept if kind == clean.PARAGRAPH)
        if size < MIN_DOCUMENT:
            return
        package = tally.package
        line = _line(f"{package.name}/{package.version}{path}", kept)
        tally.documents += 1
        tally.bytes_out += len(line.encode())
        if is_validation(package.name + path):
            self._validation.append((f"{package.name}/{package.version}{path}", kept))
        else:
            self._train_headings.update(t for kind, t in kept if kind == clean.HEADING)
            self._train.write(line)
            self.counts["train"] += 1

    def close(self):
        """Finishes both files; a validation document keeps only blocks that training lacks."""
        self._train.close()
        with open(self._path("valid.jsonl"), "w", encoding="utf-8", newline="\n") as out:
            for source, blocks in self._validation:
                out.write(_line(source, [block for block in blocks if self._is_apart(*block)]))
        self.counts["valid"] = len(self._validation)
        os.rename(self._path("train.jsonl.partial"), self._path("train.jsonl"))

    def _is_apart(self, kind, text):
        # Paragraphs repeat no paragraph by now, but headings repeat, and the one may be the other.
        return text not in self._train_headings and (
            kind == clean.PARAGRAPH or not self._seen.has(clean.paragraph_keys(text)))


def _file_facts(path):
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
    return {"bytes": size, "sha256": digest.hexdigest()}


def write_manifest(folder, tallies, missing, counts):
    """Says what the corpus was made from; its date is the build's only when that is asked for."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    manifest = {
        "tool": {"name": "build_corpus", "version": VERSION, "sources": tool_digest()},
        "outputs": {f"{split}.jsonl": {"documents": counts[split],
                                       **_file_facts(os.path.join(folder, f"{split}.jsonl"))}
                    for split in ("train", "valid")},
        "packages": [{
            "name": t.package.name, "version": t.package.version, "licences": t.licences,
            "files": t.files, "bytes_in": t.bytes_in, "documents": t.documents,
            "bytes_out": t.bytes_out, "duplicate_paragraphs": t.duplicates} for t in tallies],
        "missing": missing,
    }
    if epoch:
        when = datetime.datetime.fromtimestamp(int(epoch), datetime.timezone.utc)
        manifest["date"] = when.strftime("%Y-%m-%dT%H:%M:%SZ")
    with open(os.path.join(folder, "manifest.json"), "w", encoding="utf-8") as out:
        json.dump(manifest, out, indent=1, ensure_ascii=False)
        out.write("\n")


def print_table(tallies, counts):
    row = "{:28} {:>7} {:>9} {:>9} {:>9} {:>9}\n"
    sys.stderr.write(row.format("package", "files", "MB in", "docs", "MB out", "repeats"))
    for t in tallies:
        sys.stderr.write(row.format(t.package.name[:28], t.files, f"{t.bytes_in / 1e6:.2f}",
                                t.documents, f"{t.bytes_out / 1e6:.2f}", t.duplicates))
    sys.stderr.write(row.format(
        "total", sum(t.files for t in tallies), f"{sum(t.bytes_in for t in tallies) / 1e6:.2f}",
        sum(t.documents for t in tallies), f"{sum(t.bytes_out for t in tallies) / 1e6:.2f}",
        sum(t.duplicates for t in tallies)))
    sys.stderr.write(f"{counts['train']} training and {counts['valid']} validation documents\n")


def build(entries, output, cache, strict):
    """The whole run; returns the tallies, the missing packages and the counts per output."""
    fetch.require_tools()
    fetch.ensure_lists(entries[0].name)
    digest, tallies, missing = tool_digest(), [], []
    progress, writer = Progress(len(entries)), Writer(output)
    workers = len(os.sched_getaffinity(0))
    with multiprocessing.Pool(workers, _ignore_interrupts) as pool:
        for number, entry in enumerate(entries, 1):
            package = fetch.download(cache, entry.name)
            if package is None:
                if strict:
                    raise fetch.FetchError(f"apt knows no package {entry.name}: remove it from "
                                           "the list, or run without --strict")
                progress.note(f"missing, skipped: {entry.name}")
                missing.append(entry.name)
                continue
            path = extract_package(pool, package, entry, cache, digest, progress, number)
            tally = _add_extract(writer, package, path)
            tallies.append(tally)
            progress.step(number, entry.name, tally.bytes_in)
    progress.close()
    if not tallies:
        raise fetch.FetchError("apt knows none of the packages: run 'apt-get update' as root")
    writer.close()
    return tallies, missing, writer.counts


def _add_extract(writer, package, path):
    with open(path, encoding="utf-8") as file:
        header = json.loads(file.readline())
        tally = Tally(package, header["licences"], header["files"], header["bytes_in"])
        for line in file:
            source, blocks = json.loads(line)
            writer.add(tally, source, blocks)
    return tally


def read_list(path):
    try:
        with open(path, encoding="utf-8") as file:
            entries = parse_packages(file.read())
    except OSError as error:
        raise fetch.FetchError(f"cannot read {path} ({error.strerror}): name a list of packages "
                               "with --packages") from error
    if not entries:
        raise fetch.FetchError(f"{path} names no package: add some")
    return entries


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(
        description="Builds an English training corpus from the documentation in Debian packages.")
    parser.add_argument("--output", default="corpus", metavar="DIR",
                        help="where train.jsonl, valid.jsonl and manifest.json go (%(default)s)")
    parser.add_argument("--cache", metavar="DIR",
                        default=os.path.join(os.environ.get("XDG_CACHE_HOME") or
                                             os.path.expanduser("~/.cache"), "metala-corpus"),
                        help="downloads and extracts, kept between runs (%(default)s)")
    parser.add_argument("--packages", default=os.path.join(HERE, "packages.txt"), metavar="FILE",
                        help="the list of packages (%(default)s)")
    parser.add_argument("--limit-packages", type=int, metavar="N",
                        help="use only the first N packages of the list")
    parser.add_argument("--strict", action="store_true",
                        help="fail on a package that apt does not know instead of skipping it")
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse_arguments(arguments)
    try:
        entries = read_list(options.packages)[:options.limit_packages]
        tallies, missing, counts = build(entries, options.output, options.cache, options.strict)
        write_manifest(options.output, tallies, missing, counts)
    except fetch.FetchError as error:
        sys.stderr.write(f"build_corpus: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"build_corpus: {error.strerror}: {error.filename}; choose --output and "
                         "--cache where there is room and the right to write\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("build_corpus: stopped; run it again to go on from here\n")
        return 130
    print_table(tallies, counts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
