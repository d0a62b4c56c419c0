"""Dictionaries in dictd's format, fortune files and the stories of a game, to documents.

One file of these holds thousands of short texts, so each extractor here yields several documents:
pairs (label, blocks).
"""

import re

from clean import PARAGRAPH

ENTRIES_PER_DOCUMENT = 60

_BASE64 = {c: i for i, c in enumerate(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")}
_ACCENTED = re.compile(r"\[[^\w\s]?([a-zA-Z]{1,2})[^\w\s.]?\](?!\.?$)")
_BRACKETS = re.compile(r"\s*\[[^\[\]]*(?:\[[^\[\]]*\][^\[\]]*)*\]|\(\d{4}-\d\d-\d\d\)")
_CITED = re.compile(r"\s--\s?[A-Z][^\n]{0,60}(?:\n\s{30,}\S[^\n]{0,40})?$", re.M)
_BRACES = re.compile(r"\{([^{}]*)\}")
_PRONOUNCED = re.compile(r"\\[^\\\n]*\\|/[^/\n ][^/\n]{1,40}/,?")
_SENSE = re.compile(r"^\s*(?:(?:n|v|adj|adv|r|s|a)\s+)?(?:\d{1,2}[.:]|\([a-z]\))\s+", re.M)
_ASIDE = re.compile(r"^\s*(?:Syn|Note|See also|Etymology|Usage):?\s.*", re.M | re.S)
# What follows a headword on its line: the sound in parentheses, parts of speech, inflections.
_SOUND = re.compile(r"^\s*\([^()\n]*\)")
_GRAMMAR = re.compile(
    r"^[\s,;&]*(?:(?:n|v|a|adj|adv|prep|conj|interj|pron|p|pr|imp|t|i|vi|vt|pl|sing|superl|compar"
    r"|fem|masc|ppr|pret|vb|obs|r|s)\.[\s,;&]*|(?:n|v|a|adj|adv|prep|conj|prop\. n)(?=\n))+")
_VARIANT = re.compile(r"^\s{0,3}[\w' -]+ \\[^\n]*$", re.M)
_SUBJECT = re.compile(r"^\s*(?:<[^<>]*>|\([A-Z][\w. &]{1,24}\))\s*")
_SPEECH = re.compile(r'(?:message|story|description|summary|note|text|help_text)\s*=\s*_\s*'
                     r'"((?:[^"]|"")*)"')
_MARKUP = re.compile(r"<[^<>]*>|\^.*$")


def _number(text):
    value = 0
    for char in text:
        value = value * 64 + _BASE64[char]
    return value


def _entries(index, data):
    """(headword, text) for each entry, once, in the order of the data."""
    spans = {}
    for line in index.splitlines():
        headword, offset, length = line.split("\t")[:3]
        if not headword.startswith(("00-database", "00database")):
            spans.setdefault((_number(offset), _number(length)), []).append(headword)
    for (offset, length), headwords in sorted(spans.items()):
        yield headwords, data[offset:offset + length].decode("utf-8", "replace")


def _split_headword(headwords, text):
    """The headword as the entry spells it, and the text without its headword line if it has one."""
    first, _, rest = text.lstrip().partition("\n")
    word = first.partition("\\")[0].strip()
    if word and word.lower() in (h.lower() for h in headwords):
        tail = _SOUND.sub("", first.rpartition("\\")[2]) if "\\" in first else ""
        return word, tail + "\n" + rest
    return min(headwords, key=lambda h: (len(h), h)), text


def _senses(body):
    """(whether it defines the headword, text) for each sense or paragraph of an entry."""
    defined = False
    for chunk in re.split(r"\n\s*\n", body):
        chunk = _PRONOUNCED.sub("", _VARIANT.sub("", chunk))
        chunk = _BRACKETS.sub("", _ACCENTED.sub(r"\1", chunk))
        chunk = _ASIDE.sub("", _CITED.sub("", _BRACES.sub(r"\1", chunk)))
        plain, *numbered = [_GRAMMAR.sub("", sense) for sense in _SENSE.split(chunk)]
        # A chunk of a word or two is still the head of the entry: a spelling, a part of speech.
        if len(plain.split()) > 2:
            yield not defined, plain
            defined = True
        for sense in numbered:
            yield True, sense
            defined = True


def _sentence(headword, sense):
    """"Headword: sense." - what is defined has to be in the paragraph that defines it."""
    sense = _SUBJECT.sub("", " ".join(sense.split())).strip(" ;")
    if not sense:
        return ""
    if not re.search(r"[.!?\"')\u201d\u2019]$", sense):
        sense += "."
    if sense.lower().startswith(headword.lower()):
        return sense[0].upper() + sense[1:]
    return f"{headword[0].upper()}{headword[1:]}: {sense}"


def extract_dictionary(index, data):
    """Yields documents of some tens of neighbouring entries each."""
    blocks, count, label = [], 0, ""
    for headwords, text in _entries(index, data):
        headword, body = _split_headword(headwords, text)
        label = label or headword
        blocks += [(PARAGRAPH, _sentence(headword, sense) if defines else sense)
                   for defines, sense in _senses(body) if sense.strip()]
        count += 1
        if count == ENTRIES_PER_DOCUMENT:
            yield label, blocks
            blocks, count, label = [], 0, ""
    if blocks:
        yield label, blocks


def extract_fortunes(source):
    """Yields documents of some tens of sayings each."""
    sayings = [s.expandtabs() for s in re.split(r"^%+\s*$", source, flags=re.M) if s.strip()]
    for start in range(0, len(sayings), ENTRIES_PER_DOCUMENT):
        group = sayings[start:start + ENTRIES_PER_DOCUMENT]
        yield str(start), [(PARAGRAPH, re.sub(r"\n\s*--[^\n]*(?:\n[^\n]*)?$", "", s.rstrip()))
                           for s in group]


def extract_stories(source):
    """The translatable texts of a game's scenario, in the order of play."""
    blocks = []
    for speech in _SPEECH.findall(source):
        text = _MARKUP.sub("", speech.replace('""', '"'))
        blocks += [(PARAGRAPH, part) for part in re.split(r"\n\s*\n", text) if part.strip()]
    return blocks
