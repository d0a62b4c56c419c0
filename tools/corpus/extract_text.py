"""Plain text, Markdown, reStructuredText and Info files to blocks."""

import re

from clean import HEADING, PARAGRAPH

_UNDERLINE = re.compile(r"^\s*([=\-~^*+#])\1{2,}\s*$")
_MARKDOWN_HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$")
_ITEM = re.compile(r"^\s*(?:[-*+o\u2022]|\(?\d{1,2}[.)]|\(?[a-z]\))\s+\S")
_RST_LINE = re.compile(r"^\s*(?:\.\. |:[A-Za-z][\w -]*:)")
_FENCE = re.compile(r"^\s*(?:```|~~~)")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)|`([^`<]+?)\s*<[^>]*>`__?")
_EMPHASIS = re.compile(r"(\*\*|__|``)(?=\S)(.+?)(?<=\S)\1"
                       r"|(?<![\w*])([*_])([^*_\s][^*_]*)\3(?![\w*])")
_INFO_HEADER = re.compile(r"^File: .*Node: .*$", re.M)
_INFO_MENU = re.compile(r"^\* (?:Menu:.*|[^\n]*::[^\n]*(?:\n[ \t]{10,}[^\n]*)*)$", re.M)
_INFO_NOTE = re.compile(r"\*[Nn]ote\s+([^:]+):(?::|[^.,]*)")


def _plain(text):
    text = _LINK.sub(lambda m: m.group(1) or m.group(2) or "", text)
    return _EMPHASIS.sub(lambda m: m.group(2) or m.group(4), text)


def _indent(line):
    return len(line) - len(line.lstrip())


def _paragraphs(lines):
    """Lists of the lines of each paragraph; a new item or a deeper line starts another one."""
    at_hand = []
    for line in lines:
        starts = _ITEM.match(line) or (
            len(at_hand) > 1 and _indent(line) > _indent(at_hand[-1]) + 1)
        if at_hand and (not line.strip() or starts):
            yield at_hand
            at_hand = []
        if line.strip():
            at_hand.append(line)
    if at_hand:
        yield at_hand


def _without_fences(lines):
    inside = False
    for line in lines:
        if _FENCE.match(line):
            inside = not inside
            yield ""
        elif not inside:
            yield line


def extract_text(source):
    """Returns the blocks of loosely marked up plain text."""
    lines = list(_without_fences(source.expandtabs().splitlines()))
    blocks = []
    for paragraph in _paragraphs(lines):
        marked = _MARKDOWN_HEADING.match(paragraph[0])
        if marked:
            blocks.append((HEADING, _plain(marked.group(1))))
            paragraph = paragraph[1:]
        elif len(paragraph) > 1 and _UNDERLINE.match(paragraph[0]):
            paragraph = paragraph[1:]
        if len(paragraph) > 1 and _UNDERLINE.match(paragraph[1]):
            blocks.append((HEADING, _plain(paragraph[0])))
            paragraph = paragraph[2:]
        if paragraph and not _RST_LINE.match(paragraph[0]):
            blocks.append((PARAGRAPH, _plain(_joined(paragraph))))
    return blocks


def _joined(lines):
    """One line of text; a word broken at the end of a line by a hyphen keeps the hyphen."""
    text = ""
    for line in lines:
        glue = "" if not text or re.search(r"\w-$", text) else " "
        text += glue + line.strip()
    return text


def extract_info(source):
    """Returns the blocks of an Info file: plain text in nodes, with menus and cross references."""
    blocks = []
    for node in source.split("\x1f"):
        if node.lstrip().startswith(("Tag Table", "Indirect", "Local Variables")):
            continue
        node = _INFO_MENU.sub("", _INFO_HEADER.sub("", node))
        blocks += extract_text(_INFO_NOTE.sub(lambda m: f"see {m.group(1)}", node))
    return blocks
