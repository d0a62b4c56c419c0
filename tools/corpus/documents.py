"""Which files of an unpacked package hold English prose, and how each of them is read."""

import gzip
import bz2
import os
import re

from clean import clean_blocks
from extract_dict import extract_dictionary, extract_fortunes, extract_stories
from extract_html import extract_html
from extract_man import extract_man
from extract_text import extract_info, extract_text

MAX_FILE_BYTES = 64 << 20

_LANGUAGES = frozenset("""
af ar ast be bg bn bs ca cs cy da de el eo es et eu fa fi fr ga gl gu he hi hr hu hy id is it ja ka
kk km kn ko ku lt lv mk ml mr ms nb nds ne nl nn oc pa pl pt ro ru si sk sl sq sr sv ta te tg th tr
ug uk ur uz vi wa zh
""".split())
_LANGUAGE_PART = re.compile(r"^([a-z]{2,3})(?:[-_.@][A-Za-z]{2,8})*$")
_LANGUAGE_SUFFIX = re.compile(r"[._-]([a-z]{2,3})(?:[-_@][A-Za-z]{2,8})?(?:\.[a-z0-9]+)?$")
_UNWANTED = re.compile(
    r"/(?:_sources|_static|_modules|_downloads|_images|translations|locale|examples?|contrib|tests?"
    r"|samples?|source|i18n|javascript)/"
    r"|/(?:change(?:s|log)|changelog[^/]*|news[^/]*|copying[^/]*|copyright[^/]*|licen[cs]e[^/]*"
    r"|credits?|authors?|thanks|todo|bugs|install|contributors?|maintainers|genindex[^/]*|search"
    r"|py-modindex|sitemap|keyword-index|doc-index|bookindex|theindex|toc|robots|readme\.debian"
    r"|gfdl[^/]*|gpl[^/]*|fdl[^/]*|releases?|release[-_]?notes?[^/]*|manifest|version|changes[^/]*"
    r"|requirements|biblio[^/]*|references|contents|modindex|index-[a-z]+)"
    r"(?:\.[a-z0-9.]+)?$", re.I)
_MAN_PATH = re.compile(r"/usr/share/man/man[1-9]\w*/[^/]+$")
_FOREIGN = re.compile(r"/usr/share/man/(?!man\d)|/usr/share/help/(?!C/)")

# The better rendering of a text comes first, so that its copies in the others are dropped.
_KINDS = (
    ("html", re.compile(r"\.x?html?$", re.I)),
    ("xml", re.compile(r"\.(?:page|docbook)$|/help/[^/]+/.*\.xml$|\.docbook\.xml$")),
    ("man", _MAN_PATH),
    ("info", re.compile(r"/info/[^/]+\.info(?:-\d+)?$")),
    ("dictionary", re.compile(r"/dictd/[^/]+\.dict$")),
    ("fortunes", re.compile(r"/games/fortunes/[^/.]+$")),
    ("stories", re.compile(r"/wesnoth/.*\.cfg$")),
    ("text", re.compile(r"/usr/share/.*\.(?:txt|text|rst|md|markdown|faq)$"
                        r"|/usr/share/doc/[^.]*/(?:README|FAQ|HOWTO|GUIDE|MANUAL)[^/.]*$", re.I)),
)
_KIND_RANK = {kind: rank for rank, (kind, _) in enumerate(_KINDS)}


def _bare_name(path):
    return re.sub(r"\.(?:gz|dz|bz2)$", "", path)


def kind_of(path):
    """The kind of reader for a path inside a package, or None to leave the file alone."""
    bare = _bare_name(path)
    if _UNWANTED.search(bare) or _is_translation(bare):
        return None
    return next((kind for kind, pattern in _KINDS if pattern.search(bare)), None)


def _is_translation(path):
    if _FOREIGN.search(path):
        return True
    *folders, name = path.split("/")
    matches = [_LANGUAGE_PART.match(folder) for folder in folders]
    if any(m and m.group(1) in _LANGUAGES for m in matches):
        return True
    if _MAN_PATH.search(path):
        return False        # "gmtime.is" would be a section, not Icelandic
    suffix = _LANGUAGE_SUFFIX.search(name)
    return suffix is not None and suffix.group(1) in _LANGUAGES


def list_files(root, only=None, drop=None):
    """(path inside the package, kind) for each file to read, the better kinds first."""
    found = []
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in names:
            full = os.path.join(folder, name)
            path = full[len(root):]
            if os.path.islink(full) or not os.path.isfile(full):
                continue
            if only and not re.search(only, path) or drop and re.search(drop, path):
                continue
            kind = kind_of(path)
            if kind and os.path.getsize(full) <= MAX_FILE_BYTES:
                found.append((path, kind))
    return sorted(found, key=lambda item: (_KIND_RANK[item[1]], item[0]))


def _read_bytes(path):
    opener = {".gz": gzip.open, ".dz": gzip.open, ".bz2": bz2.open}.get(
        os.path.splitext(path)[1], open)
    with opener(path, "rb") as file:
        return file.read()


def _decode(data):
    declared = re.search(rb"charset=[\"']?([\w-]+)|encoding=[\"']([\w-]+)", data[:2000])
    names = [n.decode() for n in (declared.groups() if declared else ()) if n]
    for name in ["utf-8", *names]:
        try:
            return data.decode(name)
        except (UnicodeDecodeError, LookupError):
            continue
    return data.decode("latin-1")


def _raw_documents(full, kind):
    data = _read_bytes(full)
    if kind == "dictionary":
        with open(re.sub(r"\.dict(?:\.dz)?$", ".index", full), encoding="utf-8") as index:
            return extract_dictionary(index.read(), data)
    source = _decode(data).replace("\r\n", "\n").replace("\r", "\n")
    if kind == "fortunes":
        return extract_fortunes(source)
    extract = {"html": extract_html, "xml": extract_html, "man": extract_man,
               "info": extract_info, "text": extract_text, "stories": extract_stories}[kind]
    return [("", extract(source))]


def read_documents(full, path, kind):
    """(source path, clean blocks) for each document in a file that has any prose."""
    documents = []
    for label, blocks in _raw_documents(full, kind):
        cleaned = clean_blocks(blocks)
        if cleaned:
            documents.append((f"{path}#{label}" if label else path, cleaned))
    return documents
