#!/usr/bin/env python3
"""Tests of the corpus tool on small texts: python3 -m unittest, no network, no packages."""

import io
import json
import os
import sys
import tempfile
import unittest
from unittest import mock

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import build_corpus     # noqa: E402
import clean            # noqa: E402
import documents        # noqa: E402
import extract_dict     # noqa: E402
import extract_html     # noqa: E402
import extract_man      # noqa: E402
import extract_text     # noqa: E402
import fetch            # noqa: E402

SENTENCE = "The reader of this manual should know how the system is put together."
LONG = ("When the server starts, it reads the whole of its configuration from the file that was "
        "named on the command line, and it refuses to go on if any part of that file is wrong.")


def texts(blocks, kind=clean.PARAGRAPH):
    return [" ".join(text.split()) for block_kind, text in blocks if block_kind == kind]


class Cleaning(unittest.TestCase):
    def test_normalise_joins_lines_and_folds_punctuation(self):
        self.assertEqual(clean.normalise("\u201cOne\u201d\n  of\u00a0the \ufb01les ,  it\u2019s"),
                         '"One" of the files, it\'s')

    def test_normalise_composes_characters(self):
        self.assertEqual(clean.normalise("cafe\u0301"), "caf\u00e9")

    def test_prose_is_told_from_code_tables_and_other_languages(self):
        self.assertTrue(clean.is_prose(SENTENCE))
        self.assertTrue(clean.is_prose("Sets the name of the file to be read."))
        for text in ("for (i = 0; i < n; i++) { a[i] = b[i] + c; }",
                     "0x10 0x20 0x30 0x40 0x50 0x60", "See also",
                     "Das ist ein Satz, der nicht auf Englisch geschrieben worden ist.",
                     "alpha beta gamma delta epsilon zeta eta theta"):
            self.assertFalse(clean.is_prose(text), text)

    def test_a_short_lead_in_goes_with_the_code_it_announces(self):
        self.assertFalse(clean.is_prose("Here is an example of how to use it:"))

    def test_a_heading_stays_only_above_prose(self):
        blocks = [("h", "1.2 Empty"), ("h", "2. STARTING THE SERVER"), ("p", SENTENCE),
                  ("h", "The end")]
        self.assertEqual(clean.clean_blocks(blocks),
                         [("h", "Starting the server"), ("p", SENTENCE)])

    def test_legal_notices_are_boilerplate(self):
        self.assertTrue(clean.is_boilerplate("Permission is granted to copy this document."))
        self.assertFalse(clean.is_boilerplate(SENTENCE))


class Duplicates(unittest.TestCase):
    def test_case_digits_and_punctuation_do_not_matter(self):
        seen = clean.Seen()
        self.assertTrue(seen.is_new(clean.paragraph_keys("Chapter 1 is about files.")))
        self.assertFalse(seen.is_new(clean.paragraph_keys("chapter 22 is about FILES")))

    def test_a_changed_word_does_not_hide_a_repeat(self):
        seen = clean.Seen()
        self.assertTrue(seen.is_new(clean.paragraph_keys(LONG)))
        self.assertFalse(seen.is_new(clean.paragraph_keys(LONG.replace("wrong", "broken"))))

    def test_different_paragraphs_are_kept(self):
        seen = clean.Seen()
        self.assertTrue(seen.is_new(clean.paragraph_keys(LONG)))
        self.assertTrue(seen.is_new(clean.paragraph_keys(SENTENCE)))

    def test_a_paragraph_of_one_word_repeated_has_keys_too(self):
        self.assertEqual(len(clean.paragraph_keys("word " * 40)), 3)

    def test_a_heading_goes_with_its_repeated_text(self):
        seen = clean.Seen()
        blocks = [("h", "Server", []), ("p", LONG, clean.paragraph_keys(LONG))]
        self.assertEqual(build_corpus.fresh_blocks(blocks, seen)[0], [("h", "Server"), ("p", LONG)])
        self.assertEqual(build_corpus.fresh_blocks(blocks, seen), ([], 1))


class Extraction(unittest.TestCase):
    def test_html_keeps_prose_and_headings(self):
        blocks = extract_html.extract_html(
            "<html><head><title>T</title><script>var a;</script></head><body>"
            "<div class='navheader'>Prev <a>Next</a></div><h1>Intro</h1><p>One <b>two</b>\nthree."
            "<pre>code();</pre><p>Four &amp; five.<table><tr><td>cell</td></tr></table></body>")
        self.assertEqual(texts(blocks), ["One two three.", "Four & five.", "cell"])
        self.assertEqual(texts(blocks, clean.HEADING), ["T", "Intro"])

    def test_html_survives_unclosed_tags_in_skipped_parts(self):
        blocks = extract_html.extract_html(
            "<nav><ul><li>a<li><p>b</ul></nav><p>Kept.</p><div id='search-engines'>Also.</div>")
        self.assertEqual(texts(blocks), ["Kept.", "Also."])
        blocks = extract_html.extract_html("<div><p class='menu'>x <b>y</b></div><p>Kept.")
        self.assertEqual(texts(blocks), ["Kept."])

    def test_a_page_that_is_all_preformatted_is_read_as_text(self):
        blocks = extract_html.extract_html(f"<title>x</title><pre>{SENTENCE}\n\n{LONG}</pre>")
        self.assertEqual(texts(blocks), [SENTENCE, LONG])

    def test_docbook_listings_are_dropped(self):
        blocks = extract_html.extract_html(
            "<chapter><title>A</title><para>Text.</para><screen>ls -l</screen></chapter>")
        self.assertEqual(blocks, [("h", "A"), ("p", "Text.")])

    def test_man_page(self):
        blocks = extract_man.extract_man(
            '.TH X 1\n.SH NAME\nx \\- do it\n.SH DESCRIPTION\nThe\n.BR read (2)\ncall \\(lqreads'
            '\\(rq.\n.PP\nNext.\n.nf\ncode\n.fi\n.TP\n.B \\-a\nAll of it.\n.SH SEE ALSO\ny(1)\n')
        self.assertEqual(texts(blocks), ['The read(2) call "reads".', "Next.", "All of it."])
        self.assertIn(("h", "DESCRIPTION"), blocks)

    def test_plain_text(self):
        blocks = extract_text.extract_text(
            "Title\n=====\n\nA *marked* line\nthat goes on.\n\n* item one\n* item two\n"
            "```\ncode\n```\n## Sub ##\n[a link](http://x/)\n")
        self.assertEqual(texts(blocks),
                         ["A marked line that goes on.", "* item one", "* item two", "a link"])
        self.assertEqual(texts(blocks, clean.HEADING), ["Title", "Sub"])

    def test_info_nodes(self):
        blocks = extract_text.extract_info(
            "\x1f\nFile: a.info,  Node: Top,  Up: (dir)\n\nHead\n****\n\nText, *note Files::.\n"
            "\n* Menu:\n\n* Files::    All about them.\n\x1f\nTag Table:\nNode: Top\x7f1\n")
        self.assertEqual(texts(blocks), ["Text, see Files."])

    def test_dictionary(self):
        data = ("Bathe \\Bathe\\ (b[=a]th), v. t. [OE. {ba[thorn]ien}.]\n"
                "   1. To wash by immersion, as in a bath. --Chaucer.\n      [1913 Webster]\n")
        (label, blocks), = extract_dict.extract_dictionary(f"bathe\tA\t{'CL'}\n", data.encode())
        self.assertEqual(label, "Bathe")
        self.assertEqual(texts(blocks), ["Bathe: To wash by immersion, as in a bath."])

    def test_fortunes(self):
        (_, blocks), = extract_dict.extract_fortunes("One.\n\t\t-- Me\n%\nTwo.\n%\n")
        self.assertEqual(texts(blocks), ["One.", "Two."])

    def test_stories(self):
        blocks = extract_dict.extract_stories('[part]\nstory=_ "He said ""no"" then."\n[/part]')
        self.assertEqual(texts(blocks), ['He said "no" then.'])


class Selection(unittest.TestCase):
    def test_kinds(self):
        for path, kind in (("/usr/share/doc/x/html/a.html", "html"),
                           ("/usr/share/man/man3/gmtime.3.gz", "man"),
                           ("/usr/share/info/x.info-1.gz", "info"),
                           ("/usr/share/dictd/x.dict.dz", "dictionary"),
                           ("/usr/share/help/C/x/index.page", "xml"),
                           ("/usr/share/doc/x/guide.txt.gz", "text"),
                           ("/usr/share/doc/x/changelog.gz", None),
                           ("/usr/share/doc/x/html/genindex.html", None),
                           ("/usr/share/man/de/man1/ls.1.gz", None),
                           ("/usr/share/doc/x/html/fr-FR/a.html", None),
                           ("/usr/share/doc/x/a.de.html", None),
                           ("/usr/share/doc/x/a.png", None)):
            self.assertEqual(documents.kind_of(path), kind, path)


class Packages(unittest.TestCase):
    def test_list_with_comments_and_filters(self):
        entries = build_corpus.parse_packages("# all\na-doc\n\nb only=/en/ drop=x  # why\n")
        self.assertEqual(entries, [build_corpus.Entry("a-doc"),
                                   build_corpus.Entry("b", only="/en/", drop="x")])

    def test_an_unknown_option_says_where(self):
        with self.assertRaisesRegex(fetch.FetchError, "line 2"):
            build_corpus.parse_packages("a\nb olny=x\n")

    def test_the_shipped_list_is_valid_and_without_repeats(self):
        with open(os.path.join(build_corpus.HERE, "packages.txt"), encoding="utf-8") as file:
            names = [entry.name for entry in build_corpus.parse_packages(file.read())]
        self.assertEqual(len(names), len(set(names)))


class WholeRun(unittest.TestCase):
    """Everything but apt: a package is a folder that is unpacked already."""

    def setUp(self):
        self._scratch = tempfile.TemporaryDirectory()
        self.addCleanup(self._scratch.cleanup)
        self.cache = os.path.join(self._scratch.name, "cache")
        folder = os.path.join(self.cache, "unpacked", "x_1", "usr/share/doc/x")
        os.makedirs(folder)
        for number in range(40):
            word = "abcdefghijklmnopqrstuvwxyz"[number % 26] * (2 + number // 26)
            with open(os.path.join(folder, f"p{number}.html"), "w", encoding="utf-8") as file:
                file.write("<h1>About files</h1>" if number % 2 else
                           "<h1>The file that every reader of this page needs</h1>")
                file.write("<p>The file that every reader of this page needs</p>")
                for verb in ("read", "written", "copied", "moved", "kept"):
                    file.write(f"<p>The file of {word} is {verb} by the {word} tool when a user "
                               f"of {word} asks the {word} server for it with {verb} words.</p>")
        with open(os.path.join(folder, "copyright"), "w", encoding="utf-8") as file:
            file.write("License: GPL-2+\n")

    def build(self, name):
        output = os.path.join(self._scratch.name, name)
        package = fetch.Package("x", "1", "", os.path.join(self.cache, "unpacked", "x_1"))
        with mock.patch.multiple(fetch, require_tools=mock.DEFAULT, ensure_lists=mock.DEFAULT), \
                mock.patch.object(fetch, "download",
                                  lambda _, name: package if name == "x" else None), \
                mock.patch.object(build_corpus, "VALID_PERCENT", 20), \
                mock.patch.object(sys, "stderr", io.StringIO()), \
                mock.patch.dict(os.environ, {"SOURCE_DATE_EPOCH": "0"}):
            tallies, missing, counts = build_corpus.build(
                [build_corpus.Entry("x"), build_corpus.Entry("absent")], output, self.cache, False)
            build_corpus.write_manifest(output, tallies, missing, counts)
        return {name: self.read(output, name)
                for name in ("train.jsonl", "valid.jsonl", "manifest.json")}

    @staticmethod
    def read(folder, name):
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            return file.read()

    def test_outputs_are_disjoint_documented_and_repeatable(self):
        first = self.build("one")
        self.assertEqual(first, self.build("two"))      # the second run reads the cache
        train, valid = ([json.loads(line) for line in first[name].splitlines()]
                        for name in ("train.jsonl", "valid.jsonl"))
        self.assertTrue(train and valid)
        paragraphs = [{p for d in split for p in d["text"].split("\n\n")}
                      for split in (train, valid)]
        self.assertFalse(paragraphs[0] & paragraphs[1])
        manifest = json.loads(first["manifest.json"])
        self.assertEqual(manifest["missing"], ["absent"])
        self.assertEqual(manifest["date"], "1970-01-01T00:00:00Z")
        self.assertEqual(manifest["packages"][0]["licences"], ["GPL-2+"])
        self.assertEqual(manifest["outputs"]["train.jsonl"]["documents"], len(train))


if __name__ == "__main__":
    unittest.main()
