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
        ("<p>x<p>y<li>z", "x\n\ny\n\nz"),
        ("<table><tr><th>Day<th>Cups<tr><td>Sun<td><p>4</p></table>", "Day\tCups\nSun\t4"),
        ("<table><tr><td><p>nav</p><p>more</p><td>story</table>", "nav\n\nmore\nstory"),
        ("<label>Name</label><input><button>Send</button>", "Name Send"),
        ("<div>one</div><div>two<br>three</div>", "one\ntwo\nthree"),
        ("<ol><li>a<ul><li>b</ul><li>c</ol>", "a\n\nb\n\nc"),
        ("<dl><dt>tea<dd>hot</dl><address>lane 3</address>end", "tea\nhot\n\nlane 3\nend"),
        ("<details><summary>more</summary>inner</details>", "more\ninner"),
        ("a<b hidden>b</b><i style='DISPLAY : none'>c</i><u aria-hidden=true>d</u>", "ad"),
        ("<style>.s, #t { display: none }</style><p class=s>x<p id=t>y<p id=t style='display:block'>z", "z"),
        ("<style>@media print { p { display: none } }</style><p>seen", "seen"),
        ("<style>@media screen { b { display: none } i { color: red } }</style><p>seen<b>not", "seen"),
        ("<span style='display:block'>one</span><a style='display: flex'>two</a><b>th</b>ree", "one\ntwo\nthree"),
        ("<style>p:nonsense(( { display: none }</style><p>seen", "seen"),
        ("<p>a<svg><path><p>b</p>", "a\n\nb"),
        ("<svg><text>axis</text><title>t</title></svg>", "axis"),
        ("a<!-- never closed <p>b", "a"),
        ("a<noscript>b</noscript><template>c</template><dialog>d</dialog><dialog open>e</dialog>", "a\ne"),
        ("<textarea>\n two\nlines</textarea><select><option>x<option selected>y</select>", "two\nlines\nx\ny"),
        ("<ruby>字<rp>(</rp><rt>ji</rt><rp>)</rp></ruby>", "字(ji)"),
        ("a&nbsp;b&shy;c", "a bc"),
        ("<p style='visibility:hidden'>a<b style='visibility: visible'>b</b>c</p>d", "b\n\nd"),
        ("<style>.h{visibility:collapse}.v{visibility:visible}</style><p class=h>a<b class=v>b</b></p>", "b"),
        ("<p style='display:none'>a<b style='visibility:visible;display:block'>b</b></p>c", "c"),
        ("<p style='--display:none'>a</p>", "a"),
        ("<style>p{display:none}p.x{display:block}p{color:red}</style><p>a<p class=x>b", "b"),
        ("<style>p.x{display:none}p{display:block}</style><p>a<p class=x>b", "a"),
        ("<style>p,i{display:none}p{display:block}</style><p>a<i>b</i>", "a"),
        ("<svg><foreignObject><p>a</p></foreignObject></svg>", "a"),
        (
            "<style media=print>p{display:none}</style><noscript><style>p{display:none}</style></noscript><p>seen",
            "seen",
        ),
        ("<?xml version='1.0'?><html><head><title/></head><body>shown</body></html>", "shown"),
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


def test_the_charset_that_a_page_declares_is_obeyed_unless_it_is_false(tmp_path: Path):
    said = "<p>“né” – 5 €"
    pages_of = {
        "meta": b"<meta charset=iso-8859-1>" + said.encode("cp1252"),
        "equiv": b'<meta http-equiv="content-type" content="text/html; charset=Windows-1252">' + said.encode("cp1252"),
        "xml": b"<?xml version='1.0' encoding='windows-1252'?>" + said.encode("cp1252"),
        "comment": b"<!-- <meta charset=koi8-r> -->" + said.encode(),
        "false": b"<meta charset=utf-8>" + said.encode("cp1252"),
        "other way": b"<meta charset=iso-8859-1>" + said.encode(),
        "unknown": b"<meta charset=nonsense>" + said.encode("cp1252"),
        "wide": said.encode("utf-16"),
        "wide and false": b"<meta charset=utf-16>" + said.encode(),
    }
    for name, page in pages_of.items():
        (tmp_path / f"{name}.html").write_bytes(page)
    assert {document.text for document in read_documents([str(tmp_path)], ReadReport())} == {"“né” – 5 €"}


def test_huge_deep_and_empty_pages_are_counted(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(pages, "MAX_PAGE_BYTES", 100_000)
    for name, page in (("a", "<div>" * 6000), ("b", "x" * 100_001), ("c", "<script>x</script>")):
        (tmp_path / f"{name}.html").write_text(page)
    report = ReadReport()
    assert list(read_documents([str(tmp_path)], report)) == []
    assert report.skipped == {"HTML nested more than 5,000 deep": 1, "HTML of more than 16 MiB": 1, "empty": 1}


@given(
    parts=st.lists(
        st.sampled_from(
            [
                "<",
                ">",
                "!",
                "[",
                "--",
                "p",
                "/",
                "script",
                "&",
                "#",
                "x",
                "?",
                "=",
                '"',
                "table",
                "td",
                "tr",
                "svg",
                "style",
                "{display:none}",
                "pre",
            ]
        )
        | st.just(" ")
    )
)
def test_no_page_stops_the_reader(parts):
    report = ReadReport()
    list(read_html(Source("a", iter(["".join(parts).encode(), b"<p>end"]), report)))
    assert report.skipped == {}
