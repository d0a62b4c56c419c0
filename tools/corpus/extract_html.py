"""HTML, DocBook and Mallard to blocks, by one tag-driven reader.

The three differ only in the names of their tags, and real pages are too loosely written for a
strict XML parser, so one forgiving reader serves them all.
"""

import re
from html.parser import HTMLParser

from clean import HEADING, PARAGRAPH
from extract_text import extract_text

_HEADINGS = frozenset("h1 h2 h3 h4 h5 h6 title".split())
_BLOCKS = frozenset("""
address article blockquote body caption caution center dd desc details div dl dt example
figcaption figure footer form formalpara glossdef glossentry glossterm hr important item
itemizedlist li list listitem main note ol orderedlist p page para procedure sect1 sect2 sect3
sect4 section simpara simplesect step steps subtitle summary table tbody td terms th tip tr ul
variablelist varlistentry warning
""".split())
_SKIPPED = frozenset("""
applet articleinfo audio bookinfo button canvas cmdsynopsis comment credit email funcsynopsis
graphic index indexterm info inlinegraphic legalnotice license links literallayout math
mediaobject nav noscript object programlisting refmeta refnamediv refsynopsisdiv remark revhistory
screen screenshot script sect1info select style sup svg synopsis template term textarea toc video
""".split())
# Menu paths and keys in DocBook and Mallard stand next to each other without a space.
_SPACED = frozenset("gui guimenu guisubmenu guimenuitem guilabel guibutton keycap key".split())
_VOID = frozenset("""
area base br col embed hr img input link meta param source track wbr anchor xref
""".split())
# Page furniture by class; a name like "grid-for-nav" or "nav-content" marks the rest of the page.
_FURNITURE_CLASS = re.compile(
    r"(?:^|[\s_-])(?:(?:doc)?nav(?:bar|header|footer|igation|links?)?|side-?bar\w*|sphinxsidebar\w*"
    r"|toc\w*|contents (?:topic|local)|breadcrumbs?|headerlink|footer\w*|menu|legalnotice|copyright"
    r"|related|indexterm|index-?entries|indextable|genindextable|search\w*|highlight|programlisting"
    r"|screen|synopsis|funcsynopsis|authorgroup|revhistory|pubdate|versionadded|literal-block"
    r"|smallexample|lisp|topsmenu|editsection|productionlist|caption-number|code-block-caption"
    r"|viewcode-link|toplang|bottomlang|sig|menuentry|lang-?switch\w*)(?=$|[\s_-])", re.I)
_CONTENT_CLASS = re.compile(r"for-nav|nav-content|with-|has-|no-", re.I)
_FURNITURE_ID = re.compile(
    r"(?:nav(?:igation|bar)?|side-?bar|toc|header|footer|menu|breadcrumbs?|search(?:box)?"
    r"|quickview|page-header|module-index|contentinfo|banner|complementary)", re.I)
_MAY_STAY_OPEN = frozenset("p li dt dd td th tr".split())
_PRE = frozenset(("pre", "xmp", "listing"))


def _is_furniture(attribute, value):
    if attribute == "class":
        return _FURNITURE_CLASS.search(value) and not _CONTENT_CLASS.search(value)
    # Ids are often made from headings, so only the whole of one tells anything.
    return attribute in ("id", "role") and _FURNITURE_ID.fullmatch(value)


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.blocks = []
        self.pre_text = []
        self._text = []
        self._kind = PARAGRAPH
        self._skip_stack = []       # open tags from the first skipped one inwards
        self._pre_depth = 0

    def handle_starttag(self, tag, attrs):
        tag = tag.rpartition(":")[2]
        if self._skip_stack == [tag] and tag in _MAY_STAY_OPEN:
            self._skip_stack = []
        if self._skip_stack:
            if tag not in _VOID:
                self._skip_stack.append(tag)
            return
        if tag == "br":
            self._text.append("\n")
            return
        if tag in _PRE:
            self.flush()
            self._pre_depth += 1
        elif self._is_skipped(tag, attrs):
            if tag not in _VOID:
                self._skip_stack.append(tag)
        elif tag in _HEADINGS:
            self.flush()
            self._kind = HEADING
        elif tag in _BLOCKS:
            self.flush()
        elif tag in _SPACED and self._text and self._text[-1][-1:].isalnum():
            self._text.append(" ")

    def handle_startendtag(self, tag, attrs):
        if tag == "br" and not self._skip_stack:
            self._text.append("\n")

    def handle_endtag(self, tag):
        tag = tag.rpartition(":")[2]
        if self._skip_stack:
            self._close_skipped(tag)
        elif tag in _PRE:
            self._pre_depth = max(0, self._pre_depth - 1)
        elif tag in _HEADINGS or tag in _BLOCKS:
            self.flush()

    def handle_data(self, data):
        if self._skip_stack:
            return
        if self._pre_depth:
            self.pre_text.append(data)
        else:
            self._text.append(data)

    def flush(self):
        """Ends the block at hand; two line breaks in a row end a paragraph too."""
        text, kind = "".join(self._text), self._kind
        self._text, self._kind = [], PARAGRAPH
        for part in re.split(r"\n[ \t]*\n", text) if kind == PARAGRAPH else [text]:
            if part.strip():
                self.blocks.append((kind, part))

    def _is_skipped(self, tag, attrs):
        if tag in _SKIPPED:
            return True
        if tag in ("html", "body", "main", "article"):
            return False
        return any(value and _is_furniture(name, value) for name, value in attrs)

    def _close_skipped(self, tag):
        # Real pages leave tags open: an end tag closes everything up to its own start.
        for depth in range(len(self._skip_stack) - 1, -1, -1):
            if self._skip_stack[depth] == tag:
                del self._skip_stack[depth:]
                return
        if self._skip_stack[0] in _MAY_STAY_OPEN:
            self._skip_stack = []


def extract_html(source):
    """Returns the blocks of a page; preformatted text counts only when there is little else."""
    reader = _Reader()
    reader.feed(source)
    reader.close()
    reader.flush()
    preformatted = "".join(reader.pre_text)
    if len(preformatted) > 5 * sum(len(text) for _, text in reader.blocks):
        return extract_text(preformatted)
    return reader.blocks
