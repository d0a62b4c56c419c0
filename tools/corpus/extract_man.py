"""Manual pages (the man macros) to blocks, without running groff.

Only what prose needs is understood: sections, paragraphs, fonts and special characters. Displays,
tables and synopses are dropped on the way, which rendering by groff would make hard.
"""

import re

from clean import HEADING, PARAGRAPH

_DROPPED_SECTIONS = re.compile(
    r"^(?:name|synopsis|see also|authors?|copyright|colophon|bugs? reports?|reporting bugs|license"
    r"|history|standards|conforming to|versions|attributes|git|also see|index|contents"
    r"|acknowledge?ments|signature|availability|library|prototypes?)\b", re.I)
_PARAGRAPH_MACROS = frozenset("PP P LP IP TP TQ HP RS RE sp br Pp It bp".split())
_FONT_MACROS = frozenset("B I BR RB IR RI BI IB SM SB".split())
_DISPLAY_START = {"nf": "fi", "EX": "EE", "TS": "TE", "EQ": "EN", "Vb": "Ve", "SY": "YS",
                  "Bd": "Ed", "DS": "DE", "PS": "PE", "ig": ".", "de": ".", "am": "."}
_SPECIAL = {"aq": "'", "cq": "'", "oq": "'", "dq": '"', "lq": '"', "rq": '"', "em": " - ",
            "en": "-", "hy": "-", "mi": "-", "bu": "", "co": "(c)", "rg": "(r)", "ti": "~",
            "ha": "^", "rs": "\\", "bv": "|", "ga": "`", "at": "@", "sh": "#", "ul": "_",
            "mu": "x", "+-": "+/-", "->": "->", "<=": "<=", ">=": ">=", "de": " degrees",
            "ss": "\u00df", "'e": "\u00e9", ":o": "\u00f6", ":u": "\u00fc", ":a": "\u00e4"}
_ESCAPE = re.compile(
    r"\\(?:"
    r"f(?:\[[^]]*\]|\(..|.)"                            # fonts
    r"|s[-+]?(?:\d+|\[[^]]*\])"                         # sizes
    r"|(?P<special>\((?P<two>..)|\[(?P<named>[^]]*)\])"
    r"|\*(?P<string>\((?P<stwo>..)|\[(?P<snamed>[^]]*)\]|(?P<sone>.))"
    r"|[hvwlLDoNbXZ]'[^']*'"
    r"|[mMFn](?:\[[^]]*\]|\(..|.)"
    r"|[\"#].*$"                                        # comments
    r"|(?P<literal>[-.' e\\`~0t:&|^%,/cdup!?)]|$)"
    r")")
_LITERAL = {"-": "-", ".": ".", "'": "'", " ": " ", "e": "\\", "\\": "\\", "`": "`", "~": " ",
            "0": " ", "t": " "}
_STRINGS = {"C`": '"', "C'": '"', "L\"": '"', "R\"": '"', "lq": '"', "rq": '"', "Aq": "'",
            "--": " - ", "R": "(r)", "Tm": "(tm)"}
_ARGUMENT = re.compile(r'"((?:[^"]|"")*)"?|(\S+)')


def _unescape(text):
    def replace(match):
        if match.group("special"):
            name = match.group("two") or match.group("named") or ""
            return _SPECIAL.get(name) if name in _SPECIAL else _unicode(name)
        if match.group("string"):
            name = match.group("stwo") or match.group("snamed") or match.group("sone") or ""
            return _STRINGS.get(name, "")
        return _LITERAL.get(match.group("literal") or "", "")
    return _ESCAPE.sub(replace, text)


def _unicode(name):
    if re.fullmatch(r"u[0-9A-F]{4,5}", name):
        return chr(int(name[1:], 16))
    return ""


def _arguments(rest):
    return [quoted.replace('""', '"') or bare for quoted, bare in _ARGUMENT.findall(rest)]


class _Page:
    def __init__(self):
        self.blocks = []
        self._words = []
        self._dropping = False
        self._tag_follows = False   # the line after .TP is a label, not prose

    def heading(self, title):
        self.paragraph()
        title = _unescape(title).strip()
        self._dropping = _DROPPED_SECTIONS.match(title) is not None
        self.blocks.append((HEADING, title))

    def paragraph(self, tag_follows=False):
        text = " ".join(self._words)
        if text and not self._dropping:
            self.blocks.append((PARAGRAPH, text))
        self._words, self._tag_follows = [], tag_follows

    def words(self, text):
        if self._tag_follows:
            self._tag_follows = False
        else:
            self._words.append(_unescape(text).strip())


def _is_mdoc(source):
    return re.search(r"^\.Dd ", source, re.M) is not None


def extract_man(source):
    """Returns the blocks of a page, none for a page in the mdoc language or a mere redirect."""
    page, until = _Page(), None
    if _is_mdoc(source):
        return []
    for line in source.replace("\\\n", "").splitlines():
        macro, _, rest = line[1:].lstrip().partition(" ") if line[:1] in ".'" else ("", "", line)
        if until is not None:
            if macro == until or line == "..":
                until = None
            continue
        if not macro:
            if line[:1] in (".", "'"):
                continue
            if not line.strip() or line[0] in " \t":
                page.paragraph()    # a blank or indented line breaks the fill
            page.words(line)
        elif macro in _DISPLAY_START:
            page.paragraph()
            until = _DISPLAY_START[macro]
        elif macro in ("SH", "SS", "Sh", "Ss"):
            page.heading(" ".join(_arguments(rest)))
        elif macro in _PARAGRAPH_MACROS:
            page.paragraph(tag_follows=macro in ("TP", "TQ"))
        elif macro in _FONT_MACROS:
            arguments = _arguments(rest)
            glue = "" if len(macro) == 2 and macro not in ("SM", "SB") else " "
            page.words(glue.join(arguments))
        elif macro in ("UR", "MT", "URL"):
            page.words("")
    page.paragraph()
    return page.blocks
