from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssdcli.data.documents import ReadReport
from ssdcli.data.readers import html as pages
from ssdcli.data.readers.files import read_documents
from ssdcli.data.readers.html import read_html, visible_text
from ssdcli.data.streams import Source


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>one</p><p>two</p>", "one\n\ntwo"),
        ("one<br>two<br/>three", "one\ntwo\nthree"),
        ("<ul><li>a<li>b</ul>c", "a\nb\n\nc"),
        ("a  \n b <b>c</b>d", "a b cd"),
        ("a<pre>b\n  c</pre>  d", "a\n\nb\n  c\n\nd"),
        ("&lt;p&gt; &amp;amp; &eacute;&#8364;", "<p> &amp; é€"),
        ("<head><title>t</title></head><style>s</style><script>if (a < b) x</script>seen", "seen"),
        ("<svg><g>x</g><svg>y</svg>z</svg>seen", "seen"),
        ("a<!-- hidden -->b<!DOCTYPE html>", "ab"),
        ("</script></p>stray", "stray"),
    ],
)
def test_what_is_seen_of_a_page(page, text):
    assert visible_text(page) == text


@pytest.mark.parametrize("name", ["a.html", "a.HTM", "a.xhtml"])
def test_a_page_is_one_document(tmp_path: Path, name):
    (tmp_path / name).write_text("<html><body><h1>Dear</h1><p>land\r\nlord</p></body></html>")
    report = ReadReport()
    (document,) = read_documents([str(tmp_path / name)], report)
    assert (document.text, document.source) == ("Dear\n\nland lord", str(tmp_path / name))


def test_broken_huge_and_empty_pages_are_counted(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(pages, "MAX_PAGE_CHARACTERS", 100)
    for name, page in (("a", "<![nonsense[x]]>"), ("b", "x" * 101), ("c", "<script>x</script>")):
        (tmp_path / f"{name}.html").write_text(page)
    report = ReadReport()
    assert list(read_documents([str(tmp_path)], report)) == []
    assert report.skipped == {"broken HTML": 1, "HTML of more than 16 M characters": 1, "empty": 1}


@given(
    parts=st.lists(st.sampled_from(["<", ">", "!", "[", "--", "p", "/", "script", "&", "#", "x", " ", "?", "=", '"']))
)
def test_no_page_stops_the_reader(parts):
    report = ReadReport()
    list(read_html(Source("a", iter(["".join(parts).encode(), b"<p>end"]), report)))
    assert set(report.skipped) <= {"broken HTML"}
