from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from ssdcli.data.documents import Document, ReadReport
from ssdcli.data.readers.files import read_documents
from ssdcli.data.readers.secrets import without_secrets
from ssdcli.data.reading import Reading
from ssdcli.data.split import NearDuplicates, without_duplicates
from ssdcli.text.messages import Message


def make(folder: Path, *names: str, **contents: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(contents.get("content", f"what {name} says"))


def read(folder: Path, *include: str) -> tuple[list[str], dict[str, int]]:
    report = ReadReport()
    documents = read_documents([str(folder)], report, Reading(include=include))
    return [str(Path(document.source).relative_to(folder)) for document in documents], report.skipped


def test_what_gitignore_and_ssdignore_exclude_is_left_out_and_counted(tmp_path):
    make(tmp_path, "a.txt", "b.log", "keep.log", "made/c.txt", "docs/d.txt", "docs/draft.txt", "docs/made/e.txt")
    (tmp_path / ".gitignore").write_text("*.log\n!keep.log\n/made/\n# note\n")
    (tmp_path / "docs" / ".ssdignore").write_text("draft*\n")
    found, skipped = read(tmp_path)
    assert found == ["a.txt", "keep.log", "docs/d.txt", "docs/made/e.txt"]
    assert skipped == {"hidden": 2, "excluded by .gitignore": 2, "excluded by .ssdignore": 1}


def test_the_ignore_files_of_the_repository_around_a_folder_hold_too(tmp_path):
    (tmp_path / ".git").mkdir()
    make(tmp_path, "notes/a.txt", "notes/b.tmp")
    (tmp_path / ".gitignore").write_text("*.tmp\n")
    found, skipped = read(tmp_path / "notes")
    assert (found, skipped) == (["a.txt"], {"excluded by .gitignore": 1})


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["env/pyvenv.cfg", "env/lib/x.py"], "virtual environment"),
        (["node_modules/x/i.js"], "installed packages"),
        (["lib/site-packages/x.py"], "installed packages"),
        (["__pycache__/x.txt"], "build folder"),
        (["target/debug/x.d"], "build folder"),
        (["pkg.egg-info/x.txt"], "build folder"),
        (["yarn.lock"], "lock file"),
        (["Cargo.lock"], "lock file"),
        (["app.min.js"], "minified or generated"),
        (["id_ed25519"], "private key"),
        (["server.pem"], "private key"),
        ([".env"], "hidden"),
    ],
)
def test_what_is_no_ones_own_text_is_left_out_by_reason_unless_it_is_included(tmp_path, names, reason):
    make(tmp_path, "a.txt", *names)
    assert read(tmp_path) == (["a.txt"], {reason: 1})
    found, _ = read(tmp_path, "*")
    assert set(found) == {"a.txt", *names}


def test_a_link_to_a_file_elsewhere_is_left_out_unless_it_is_included(tmp_path):
    make(tmp_path, "notes/a.txt", "other/b.txt")
    (tmp_path / "notes" / "out.txt").symlink_to(tmp_path / "other" / "b.txt")
    (tmp_path / "notes" / "within.txt").symlink_to("a.txt")
    found, skipped = read(tmp_path / "notes")
    assert (found, skipped) == (["a.txt", "within.txt"], {"link that leaves the folder": 1})
    assert "out.txt" in read(tmp_path / "notes", "out.txt")[0]


def test_a_build_folder_is_one_only_in_a_project(tmp_path):
    make(tmp_path, "build/how to.txt")
    assert read(tmp_path) == (["build/how to.txt"], {})
    make(tmp_path, "pyproject.toml")
    assert read(tmp_path)[1] == {"build folder": 1}


@pytest.mark.parametrize("file", ["package-lock.json", "yarn.lock", "App.csproj", "vite.config.ts", "Gemfile"])
def test_a_lock_file_or_settings_of_a_bundler_make_a_project(tmp_path, file):
    make(tmp_path, file, "dist/app.js")
    found, skipped = read(tmp_path)
    assert "dist/app.js" not in found
    assert skipped["build folder"] == 1


def test_include_reaches_into_excluded_folders_and_takes_no_more(tmp_path):
    make(tmp_path, ".notes/a.txt", ".notes/b.txt", "node_modules/x/readme.md")
    found, _ = read(tmp_path, ".notes/a.txt", "node_modules/**/readme.md")
    assert found == [".notes/a.txt", "node_modules/x/readme.md"]


KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    "line",
    [
        "aws_id = AKIA" + "IOSFODNN7EXAMPLE",
        "token ghp_" + "a1B2" * 9,
        "xoxb-" + "1234567890-abcdef",
        "OPENAI=sk-" + "proj-abc123DEF456ghi789JKL",
        "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0." + "SflKxwRJSMeKKF2QT4",
        "db: postgres://ada:kiln4711@db.example.org/x",
        'password = "kiln4711x"',
        "API_KEY: 0a1b2c3d4e5f",
        "auth_token=abcd1234efgh",
        "Authorization: Bearer " + "abcd1234efgh5678",
    ],
)
def test_lines_with_credentials_are_left_out_and_counted(line):
    report = ReadReport()
    document = Document(f"before\n{line}\nafter", "a.txt")
    report.add(document)
    (found,) = without_secrets([document], report)
    assert found.text == "before\nafter"
    assert report.skips["what looks like a credential"].first == "a.txt:2"
    assert report.characters == len(found.text)


@pytest.mark.parametrize(
    "line",
    [
        "The password is on the kitchen table.",
        "password = os.environ['X1']",
        "secret: see page 12",
        "passage: 2024-01-01",
        "https://example.org/a@b:8080",
        "mysql://user:password@host",
        "key-value stores, token: a word",
        "api_key = <your key 1>",
        "Authorization: Bearer <your key 1>, or Authorization: Basic authentication",
    ],
)
def test_text_about_passwords_stays(line):
    document = Document(line, "a.txt")
    assert list(without_secrets([document], ReadReport())) == [document]


def test_private_keys_are_left_out_of_texts_and_conversations():
    report = ReadReport()
    texts = [Document(f"mine:\n{KEY}\nend", "a"), Document(KEY, "b")]
    talk = Document.conversation((Message("user", f"{KEY}\nwhy?"), Message("assistant", "So.")), "c")
    lost = Document.conversation((Message("user", "key?"), Message("assistant", KEY)), "d")
    for document in (*texts, talk, lost):
        report.add(document)
    found = list(without_secrets([*texts, talk, lost], report))
    assert [document.text for document in found] == ["mine:\n\nend", "\nwhy?\n\nSo."]
    assert (report.documents, report.skipped) == (2, {"private key in a text": 4})


def words(draw: Random, count: int) -> list[str]:
    return [f"w{draw.randrange(5000)}" for _ in range(count)]


def test_nearly_the_same_documents_are_found_and_others_are_not():
    draw = Random(0)
    near, hits = NearDuplicates(), 0
    for _ in range(60):
        text = words(draw, 400)
        assert not near.resembles_another(text)
        changed = [*text[:200], "new", *text[201:]]
        hits += near.resembles_another(changed)
        assert not near.resembles_another([*text[:40], *words(draw, 200)])
    assert hits > 55


def test_near_duplicates_are_counted_unless_their_file_is_included():
    text = " ".join(words(Random(1), 200))
    documents = [Document(text, "a"), Document(text + " end", "b"), Document(text + " fin", "c", included=True)]
    report = ReadReport()
    assert [document.source for document in without_duplicates(documents, report)] == ["a", "c"]
    assert report.skips["near-duplicate"].first == "b"
    short = [Document("a letter about the boiler 1", "a"), Document("a letter about the boiler 2", "b")]
    assert len(list(without_duplicates(short, ReadReport()))) == 2
