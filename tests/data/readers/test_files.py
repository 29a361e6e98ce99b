from __future__ import annotations

import csv
import gzip
import io
import json
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ssdcli.data import streams
from ssdcli.data.documents import Document, ReadReport
from ssdcli.data.readers import formats
from ssdcli.data.readers.files import read_documents
from ssdcli.data.readers.rows import NO_TEXT_FIELDS
from ssdcli.data.readers.text import text_documents
from ssdcli.errors import UsageError
from ssdcli.machine.units import large

MEBIBYTE = 1 << 20


def read(*sources: Path | str) -> tuple[list[Document], ReadReport]:
    report = ReadReport()
    return list(read_documents([str(source) for source in sources], report)), report


def texts(*sources: Path | str) -> list[str]:
    return [document.text for document in read(*sources)[0]]


def skipped(*sources: Path | str) -> dict[str, int]:
    return read(*sources)[1].skipped


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def lines_of(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.py", "a", "a.unknown"])
def test_a_text_file_is_one_document(tmp_path, name):
    path = write(tmp_path / name, "one\n\ntwo é 日本\n")
    documents, report = read(path)
    assert documents == [Document("one\n\ntwo é 日本\n", str(path))]
    assert (report.files, report.documents, report.skipped) == (1, 1, {})
    assert report.characters == len("one\n\ntwo é 日本\n")
    assert report.bytes == len("one\n\ntwo é 日本\n".encode())


def test_folders_are_read_recursively_in_sorted_order_without_what_is_hidden(tmp_path):
    for name in ("b/2.txt", "b/1.txt", "a/z.txt", "c.txt", "A.txt"):
        write(tmp_path / name, name)
    for name in (".git/config", ".secret", "node_modules/x.js", "a/__pycache__/y.txt", "b/.venv/z.txt"):
        write(tmp_path / name, "hidden")
    documents, report = read(tmp_path)
    assert [document.text for document in documents] == ["A.txt", "c.txt", "a/z.txt", "b/1.txt", "b/2.txt"]
    assert report.skipped == {"hidden": 3, "installed packages": 1, "build folder": 1}
    assert any("skipped 3 entries: hidden" in line for line in report.lines())


def test_a_hidden_file_that_is_named_is_read(tmp_path):
    assert texts(write(tmp_path / ".notes", "mine")) == ["mine"]


def test_links_and_special_files_in_folders_do_not_trap_the_reader(tmp_path):
    write(tmp_path / "a.txt", "text")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    documents, report = read(tmp_path)
    assert [document.text for document in documents] == ["text"]
    assert report.skipped == {"link to a folder": 1, "not a regular file": 1, "unreadable": 1}


@pytest.mark.parametrize("missing", ["nowhere.txt", ""])
def test_a_missing_source_is_refused_before_anything_is_read(tmp_path, missing):
    report = ReadReport()
    path = write(tmp_path / "a.txt", "text")
    name = str(tmp_path / missing) if missing else ""
    with pytest.raises(UsageError, match="nowhere.txt" if missing else "''"):
        read_documents([str(path), name], report)
    assert report == ReadReport()


def test_no_source_is_refused():
    with pytest.raises(UsageError):
        read_documents([], ReadReport())


def test_a_file_that_vanishes_is_unreadable(tmp_path):
    path = write(tmp_path / "a.txt", "text")
    report = ReadReport()
    documents = read_documents([str(path)], report)
    path.unlink()
    assert list(documents) == []
    assert report.skipped == {"unreadable": 1}


def test_a_file_without_permission_is_unreadable(tmp_path, monkeypatch):
    path = write(tmp_path / "a.txt", "text")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert skipped(path) == {"unreadable": 1}


def test_a_stream_that_fails_keeps_what_it_gave(tmp_path):
    class Failing(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            if self.tell():
                raise OSError(5, "Input/output error")
            return super().read1(8)

    report = ReadReport()
    assert list(streams.byte_chunks(Failing(b"12345678rest"), "disk.txt", report)) == [b"12345678"]
    assert report.skipped == {"unreadable": 1}


@pytest.mark.parametrize("content", ["", " \n\t\r\n", "\ufeff"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv", "a.txt.gz"])
def test_blank_files_are_empty(tmp_path, content, name):
    data = content.encode("utf-8")
    path = write(tmp_path / name, gzip.compress(data) if name.endswith(".gz") else data)
    assert read(path)[0] == []
    assert sum(skipped(path).values()) == 1
    assert name == "a.csv" or skipped(path) == {"empty": 1}


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\0\0text", b"\xf8\x81\x00\x02ab" * 99, b"\x01\x02\x03a" * 99])
def test_binary_files_are_skipped_and_counted(tmp_path, data):
    report = read(write(tmp_path / "a.png", data), write(tmp_path / "b.txt", "text"))[1]
    assert report.skipped == {"binary": 1}
    assert (report.files, report.documents) == (1, 1)
    assert report.lines()[1] == f"skipped 1 file: binary (first: {tmp_path / 'a.png'})"


def test_rare_invalid_bytes_are_replaced_and_counted_by_file(tmp_path):
    valid = "é is spelt out: \ufffd, ü too. " * 9
    first = write(tmp_path / "a.txt", b"caf\xe9 is written " * 3 + valid.encode())
    second = write(tmp_path / "b.txt", valid.encode() + b"\xff")
    documents, report = read(first, second)
    assert documents[0].text == "caf\ufffd is written " * 3 + valid
    assert (report.replaced_characters, report.replaced_files, report.skipped) == (4, 2, {})
    assert report.counts()["replaced"] == {str(first): 3, str(second): 1}
    assert report.lines()[-1] == f"replaced 4 invalid characters in 2 places (first: {first} (3), {second} (1))"


def test_text_in_other_encodings_is_read_and_they_are_said(tmp_path):
    said = "Ça coûte 5 € – “déjà”, naïve.\n"
    first = write(tmp_path / "a.txt", said.encode("cp1252"))
    write(tmp_path / "b.txt", ("plain " * 20_000 + said).encode("cp1252"))
    write(tmp_path / "c.txt", said.encode("utf-16"))
    documents, report = read(tmp_path)
    assert [document.text for document in documents] == [said, "plain " * 20_000 + said, said]
    assert report.counts()["encodings"] == {"windows-1252": 2, "UTF-16-LE": 1}
    assert f"read 2 files as windows-1252 (first: {first})" in report.lines()
    assert report.replaced_characters == 0


def test_xml_is_read_in_the_encoding_that_it_declares(tmp_path):
    said = "<?xml version='1.0' encoding='{}'?><a>Ærø, þú, ýsa</a>\n"
    write(tmp_path / "a.xml", said.format("iso-8859-1").encode("cp1252"))
    write(tmp_path / "b.xml", said.format("iso-8859-1").encode())
    assert texts(tmp_path) == [said.format("iso-8859-1")] * 2


def test_characters_cut_by_a_chunk_are_whole(tmp_path, monkeypatch):
    text = "\ufeffé日本\r\n\ufffd😀\r" * 5000
    path = write(tmp_path / "a.txt", text)
    for size in (1, 7, 64):
        monkeypatch.setattr(streams, "CHUNK_BYTES", size)
        documents, report = read(path)
        assert documents[0].text == text.replace("\r\n", "\n").replace("\r", "\n")[1:]
        assert report.replaced_characters == 0


def test_byte_order_mark_and_foreign_line_ends_go(tmp_path):
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert texts(path) == ["one\ntwo\nthree\n"]


def test_long_texts_are_cut_at_line_breaks(tmp_path):
    text = "".join(f"line {i} of a long text\n" for i in range(100_000))
    pieces = texts(write(tmp_path / "a.txt", text))
    assert "".join(pieces) == text
    assert len(pieces) == 3
    assert all(len(piece) <= streams.MAX_DOCUMENT_CHARACTERS and piece.endswith("\n") for piece in pieces)


def test_one_line_of_20_megabytes_is_cut_into_pieces(tmp_path):
    pieces = texts(write(tmp_path / "a.txt", b"words and " * 2_000_000))
    assert [len(piece) for piece in pieces] == [streams.MAX_DOCUMENT_CHARACTERS] * 20


def test_three_words_are_read(tmp_path):
    assert texts(write(tmp_path / "a.txt", "three little words")) == ["three little words"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.ndjson", "a.JSONL", "a.jsonl.gz"])
def test_json_lines_give_text_or_prompt_and_response(tmp_path, name):
    content = lines_of({"text": "one\r\ntwo"}, {"prompt": "Why?", "response": "So."}, {"text": "t", "id": 3})
    data = content.encode()
    path = write(tmp_path / name, gzip.compress(data) if name.endswith(".gz") else data)
    documents, report = read(path)
    assert [document.text for document in documents] == ["one\ntwo", "Why?\n\nSo.", "t"]
    assert [document.source for document in documents] == [f"{path}:{i}" for i in (1, 2, 3)]
    assert (report.files, report.documents) == (1, 3)


def test_a_file_without_a_suffix_is_read_as_json_where_it_holds_rows(tmp_path):
    write(tmp_path / "export", lines_of({"text": "one"}, {"text": "two"}))
    assert [document.text for document in read(tmp_path)[0]] == ["one", "two"]


def test_a_broken_json_line_is_counted_with_its_place(tmp_path):
    deep = "[" * 100_000
    content = f'{{"text": "a"}}\n\n{{"text": "b\n[1]\n{deep}\n{{"text": "c"}}'
    documents, report = read(write(tmp_path / "a.jsonl", content))
    assert [document.text for document in documents] == ["a", "c"]
    assert report.skipped == {"broken JSON, or not an object": 3}
    assert report.skips["broken JSON, or not an object"].first == f"{tmp_path / 'a.jsonl'}:3"


def test_rows_without_text_are_counted_with_the_fields_found(tmp_path):
    rows = [{"title": "x", "body": "y"}, {"prompt": "alone"}, {"text": None}, {"text": " "}, {"text": "good"}]
    documents, report = read(write(tmp_path / "a.jsonl", lines_of(*rows)))
    assert [document.text for document in documents] == ["good"]
    assert report.skipped == {NO_TEXT_FIELDS: 3, "empty text": 1}
    assert report.skips[NO_TEXT_FIELDS].first == f"{tmp_path / 'a.jsonl'}:1, fields: title, body"


def test_a_json_line_over_16_mebibytes_is_skipped_without_being_held(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'{"text": "before"}\n{"text": "')
        for _ in range(40):
            file.write(b"x" * MEBIBYTE)
        file.write(b'"}\n{"text": "after"}\n')
    report = ReadReport()
    tracemalloc.start()
    found = [document.text for document in read_documents([str(path)], report)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == ["before", "after"]
    assert report.skipped == {"line longer than 16 MiB": 1}
    assert report.skips["line longer than 16 MiB"].first == f"{path}:2"
    assert peak < 20 * MEBIBYTE


def test_a_long_text_in_json_is_cut_too(tmp_path):
    pieces = texts(write(tmp_path / "a.jsonl", lines_of({"text": "ab " * 1_000_000})))
    assert [len(piece) for piece in pieces] == [streams.MAX_DOCUMENT_CHARACTERS] * 3


def test_lone_surrogates_in_json_are_replaced_so_that_text_can_be_encoded(tmp_path):
    documents, report = read(write(tmp_path / "a.jsonl", '{"text": "a\\ud800b \\ud83d\\ude00"}\n'))
    assert documents[0].text == "a\ufffdb 😀"
    assert report.replaced_characters == 1


ROWS = [{"text": "one [1], {2}"}, {"text": "two\n\t\u2028"}, {"text": "three"}]
FORMS_OF_JSON = {
    "lines": lines_of(*ROWS),
    "array": json.dumps(ROWS),
    "pretty array": json.dumps(ROWS, indent=2),
    "pretty objects": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "an object a line in brackets": "[\n" + ",\n".join(map(json.dumps, ROWS)) + ",\n]\n",
    "brackets on the lines": "[" + ",\n".join(map(json.dumps, ROWS)) + "]",
    "with a mark": "\ufeff" + json.dumps(ROWS),
    "raw control characters": lines_of(*ROWS).replace("\\t", "\t"),
}


@pytest.mark.parametrize("form", FORMS_OF_JSON)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "-"])
def test_json_is_read_in_all_of_its_forms(tmp_path, monkeypatch, form, name):
    content = FORMS_OF_JSON[form]
    if name == "-":
        give_standard_input(monkeypatch, content.encode())
    documents, report = read("-" if name == "-" else write(tmp_path / name, content))
    assert [document.text for document in documents] == [row["text"] for row in ROWS]
    assert report.skipped == {}


def test_a_broken_value_costs_no_more_than_itself(tmp_path):
    content = '[\n{"text": "a",\n "n": 1},\n{"text": oops},\n{"text":\n "b"}\n]'
    documents, report = read(write(tmp_path / "a.json", content))
    assert [document.text for document in documents] == ["a", "b"]
    assert report.skipped == {"broken JSON, or not an object": 1}
    assert sum(skipped(write(tmp_path / "b.json", '["a", 3, [], {"text": "c"}')).values()) == 2


@pytest.mark.parametrize("content", ['{"name": "x"}', '{\n "compilerOptions": {}\n}', "[1, 2]", "oops", '"text"'])
def test_json_without_rows_is_counted(tmp_path, content):
    documents, report = read(write(tmp_path / "a.json", content))
    assert documents == []
    assert sum(report.skipped.values()) >= 1


def test_markdown_on_standard_input_is_no_json(monkeypatch):
    for text in ("[a link](to) it\n", "[ ] to do\n[x] done\n", "{{ braces }}\n", '{"quoted"} words\n'):
        give_standard_input(monkeypatch, text.encode())
        assert texts("-") == [text]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", 'id;text\n1;"x; y"\n2;z, w\n', ["x; y", "z, w"]),
        ("a.csv", 'text,n\n"He said \\"hi\\" ok",1\n', ['He said "hi" ok']),
        ("a.csv", "text\na, b, and c\n", ["a, b, and c"]),
        ("a.csv", "id\ttext\n1\tx, y\n", ["x, y"]),
        ("a.csv", "sep=|\nid|text\n1|x\n", ["x"]),
        ("a.csv", "ID, Text \n1,x\n", ["x"]),
        ("a.csv", ",,\nmy notes,,\nid,text,\n1,x,\n", ["x"]),
        ("a.csv", "id,text,note\n1,x\n2,y,z\n", ["x", "y"]),
        ("a.csv", "text,text\nfirst,second\nthird,\n", ["first\n\nsecond", "third"]),
        ("a.csv", 'text\n5" pipe\n"said" she\n"two\nlines"\nlast\n', ['5" pipe', '"said" she', "two\nlines", "last"]),
        ("a.tsv", 'id\ttext\n1\tThe 5" pipe\n2\t"Yes" she said\n3\tlast\n', ['The 5" pipe', '"Yes" she said', "last"]),
        ("a.csv", "Instruction;Input;Output\nName it;blue;So\n", ["Name it\n\nblue\n\nSo"]),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_tables_are_read_in_their_dialects(tmp_path, name, content, expected, encoding):
    documents, report = read(write(tmp_path / name, content.encode(encoding)))
    assert [document.text for document in documents] == expected
    assert report.skipped == {}


def test_a_number_of_thousands_of_digits_costs_its_row_alone(tmp_path):
    row = '{"text": "a", "n": ' + "9" * 5000 + "}"
    documents, report = read(write(tmp_path / "a.json", f'{row}\n{{"text": "b"}}\n'))
    assert [document.text for document in documents] == ["b"]
    assert report.skipped == {"broken JSON, or not an object": 1}


def test_csv_with_quotes_line_breaks_and_bad_rows(tmp_path):
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerows([["id", "text"], ["1", 'He said "no",\r\nand left'], ["2", "x" * 200_000]])
    content = "\ufeff" + buffer.getvalue() + '3,too,many\n4,"broken" quote\n\n5,\n6,last\n'
    documents, report = read(write(tmp_path / "a.csv", content))
    assert [document.text for document in documents] == [
        'He said "no",\nand left',
        "x" * 200_000,
        '"broken" quote',
        "last",
    ]
    assert report.skipped == {"broken CSV row": 1, "empty text": 1}
    assert report.skips["broken CSV row"].first == f"{tmp_path / 'a.csv'}:5"


def test_a_quote_that_is_never_closed_loses_nothing(tmp_path):
    path = write(tmp_path / "a.csv", 'text\ngood\n"never closed\nmore\n')
    assert texts(path) == ["good", '"never closed', "more"]
    assert skipped(path) == {}


def test_tsv_and_csv_with_prompt_and_response(tmp_path):
    tsv = write(tmp_path / "a.tsv", "prompt\tresponse\nWhy, then?\tSo.\n")
    table = write(tmp_path / "a.csv", "response, prompt\nSo.,Why?\n")
    assert texts(tsv, table) == ["Why, then?\n\nSo.", "Why?\n\nSo."]


def test_a_csv_without_text_columns_names_what_it_has(tmp_path):
    report = read(write(tmp_path / "a.csv", "name,age\nAnn,3\nBob,4\n"))[1]
    assert report.skipped == {NO_TEXT_FIELDS: 2}
    assert report.skips[NO_TEXT_FIELDS].first.endswith("a.csv:2, fields: name, age")


def test_parquet(tmp_path):
    pq.write_table(pa.table({"text": ["one", None, "three"] * 100, "n": range(300)}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"prompt": ["p"], "response": ["r"]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"n": [1, 2], "m": [1, 2]}), tmp_path / "c.parquet")
    documents, report = read(tmp_path)
    assert [document.text for document in documents] == ["one", "three"] * 100 + ["p\n\nr"]
    assert documents[199].source == f"{tmp_path / 'a.parquet'}:300"
    assert report.skipped == {NO_TEXT_FIELDS: 102}
    assert "fields: text, n" in report.skips[NO_TEXT_FIELDS].first
    assert skipped(tmp_path / "c.parquet") == {NO_TEXT_FIELDS: 2}


@pytest.mark.parametrize("data", [b"PAR1 and nothing good PAR1", b"", b"no parquet at all"])
def test_a_broken_parquet_file_is_unreadable(tmp_path, data):
    assert skipped(write(tmp_path / "a.parquet", data)) == {"unreadable": 1}


def test_a_parquet_file_cut_short_or_with_damaged_pages_does_not_raise(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"row {i}" * 50 for i in range(2000)]}), path, row_group_size=500)
    data = path.read_bytes()
    assert skipped(write(path, data[:-100])) == {"unreadable": 1}
    half = len(data) // 2
    documents, report = read(write(path, data[:half] + b"\xff" * 2000 + data[half + 2000 :]))
    assert report.skipped == {"unreadable": 1}
    assert 0 < len(documents) < 2000


def test_reading_parquet_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"text": ["private"]}), tmp_path / "data" / "a.parquet")
    assert texts(tmp_path / "data") == ["private"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.parquet", "data"]


def test_a_truncated_gzip_keeps_what_was_read(tmp_path):
    text = "".join(f"line {i * i * 7919}\n" for i in range(50_000))
    whole = gzip.compress(text.encode())
    path = write(tmp_path / "a.txt.gz", whole[: len(whole) // 2])
    documents, report = read(path)
    kept = "".join(document.text for document in documents)
    assert len(kept) > len(text) // 4
    assert text.startswith(kept)
    assert report.skipped == {"truncated gzip": 1}
    assert report.files == 1


def test_a_gzip_with_damage_in_the_middle_keeps_the_lines_before(tmp_path):
    data = bytearray(gzip.compress(lines_of(*({"text": f"{i * i * 7919}"} for i in range(50_000))).encode()))
    data[len(data) // 2 : len(data) // 2 + 50] = b"\xff" * 50
    documents, report = read(write(tmp_path / "a.jsonl.gz", bytes(data)))
    assert len(documents) > 1000
    assert report.skipped["truncated gzip"] == 1


def test_what_only_calls_itself_gzip_is_unreadable(tmp_path):
    assert skipped(write(tmp_path / "a.txt.gz", "plain text")) == {"unreadable": 1}


def give_standard_input(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BufferedReader(io.BytesIO(data))))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"plain\r\ntext", ["plain\ntext"]),
        (b'\n {"text": "a"}\n{"text": "b"}\n', ["a", "b"]),
        (b"{braces} are no JSON\n", ["{braces} are no JSON\n"]),
        (b'{\n "text": "pretty"\n}\n', ["pretty"]),
        (b'\n\n{"text": "' + b"x" * 200_000 + b'"}', ["x" * 200_000]),
        (b"", []),
        (b"\0\1\2", []),
    ],
)
def test_standard_input_is_text_or_json_lines(monkeypatch, data, expected):
    give_standard_input(monkeypatch, data)
    documents, report = read("-")
    assert [document.text for document in documents] == expected
    assert report.files == bool(expected)
    assert sum(report.skipped.values()) == (not expected)


def test_a_named_pipe_that_is_given_is_read_like_standard_input(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = Thread(target=pipe.write_text, args=['{"text": "a"}\n'])
    writer.start()
    assert texts(pipe) == ["a"]
    writer.join()


def test_names_in_reports_cannot_steer_a_terminal(tmp_path):
    report = read(write(tmp_path / "evil\x1b[2J\n.bin", b"\0"))[1]
    assert "\x1b" not in report.lines()[1]
    assert "\n" not in report.lines()[1]


def test_report_lines():
    report = ReadReport(files=3, documents=1684, characters=1_800_000)
    assert report.lines() == ["read 1,684 documents (1.8 M characters) from 3 files"]
    report.skip("binary", "a.png")
    report.skip("binary", "b.png")
    assert report.lines()[1] == "skipped 2 files: binary (first: a.png)"
    assert report.counts()["skipped"] == {"binary": 2}
    assert json.loads(json.dumps(report.counts())) == report.counts()
    assert [large(n) for n in (0, 9412, 999_600, 2_100_000_000)] == ["0", "9,412", "1 M", "2.1 G"]


@pytest.mark.parametrize("form", ["txt", "jsonl", "csv", "parquet"])
def test_memory_stays_far_below_the_size_of_the_file(tmp_path, form):
    path = tmp_path / f"big.{form}"
    text = "some words that fill a page of a large file of someone's notes, again and again " * 20
    if form == "parquet":
        pq.write_table(pa.table({"text": [text] * 7_000}), path, use_dictionary=False, compression="none")
    else:
        row = {"txt": text, "jsonl": json.dumps({"text": text}), "csv": f'"{text}"'}[form] + "\n"
        path.write_text(("text\n" if form == "csv" else "") + row * 7_000)
    report = ReadReport()
    arrow_before, arrow_peak = pa.total_allocated_bytes(), 0
    tracemalloc.start()
    for _ in read_documents([str(path)], report):
        arrow_peak = max(arrow_peak, pa.total_allocated_bytes() - arrow_before)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.characters >= 11_000_000
    assert peak + arrow_peak < 10_000_000


def test_a_new_format_is_one_function_and_one_line_of_the_table(tmp_path, monkeypatch):
    def read_backwards(source: streams.Source) -> Iterator[Document]:
        yield from text_documents(["".join(source.text())[::-1]], source.name, source.report)

    monkeypatch.setitem(formats.FORMATS, ".back", formats.Format(read_backwards))
    assert texts(write(tmp_path / "a.back", "olleh")) == ["hello"]
    assert skipped(write(tmp_path / "b.back", b"\0" * 99)) == {"binary": 1}
    with gzip.open(tmp_path / "c.back.gz", "wb") as file:
        file.write(b"dlrow")
    assert texts(tmp_path / "c.back.gz") == ["world"]
