from __future__ import annotations

import copy
import io
import tarfile

import pytest

from ssdcli.errors import SsdError, UsageError
from ssdcli.registry import archive
from ssdcli.registry.archive import import_model
from tests.registry.archives import FILES, exported, listed, tar, tokenizer, weights


@pytest.fixture
def refused(registry):
    """Imports an archive that must be refused, checks that nothing is left, and returns the error's text."""

    def attempt(stream, name=None, error=SsdError):
        before = sorted(registry.home.rglob("*"))
        with pytest.raises(error) as caught:
            import_model(registry, stream, "'notes.tar'", name)
        left = {registry.models, registry.home, registry.home / "registry.lock", *before}
        assert set(registry.home.rglob("*")) <= left
        return str(caught.value)

    return attempt


def header(name, kind, **fields):
    made = tarfile.TarInfo(name)
    made.type = kind
    for field, value in fields.items():
        setattr(made, field, value)
    return made


@pytest.mark.parametrize(("name", "said"), [("starter", "comes with ssd"), ("../notes", "looks like a path")])
def test_names_are_checked_at_the_door(put, refused, name, said):
    assert said in refused(exported(put()), name, UsageError)


def test_the_folder_of_an_archive_must_be_a_name_unless_another_is_given(registry, described, refused):
    def renamed():
        return tar(("Notes/ssd.json", described()), *((f"Notes/{file}", content) for file, content in FILES.items()))

    assert "Did you mean 'notes'?" in refused(renamed(), error=UsageError)
    assert import_model(registry, renamed(), "a.tar", "notes").name == "notes"


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../evil", "notes/../../evil", "notes/./a", "notes//a", "C:evil", "notes\\evil", "notes/a\n"],
)
def test_a_path_that_leads_elsewhere_is_refused(described, refused, path):
    said = refused(tar(("notes/ssd.json", described()), (path, b"evil"), *listed()))
    assert said.startswith(f"'notes.tar' cannot be imported: {path!r} is not a plain path inside the model's folder")
    assert "not a plain path" in refused(tar((path, described()), *listed()))


@pytest.mark.parametrize("path", ["/etc/passwd", "../evil", "a/../../evil", "..", "a\\b", "c:evil"])
def test_a_manifest_that_lists_files_elsewhere_is_refused(described, refused, path):
    files = {**FILES, path: b"evil"}
    assert "the field 'files' must be" in refused(tar(("notes/ssd.json", described(files)), *listed(files)))


@pytest.mark.parametrize("path", [".hidden", "a/.git/config", "a//b", "a b", "end.", "a/./b", "é", "x" * 250, ""])
def test_a_manifest_that_lists_no_plain_path_is_refused(described, refused, path):
    files = {**FILES, path: b"evil"}
    said = refused(tar(("notes/ssd.json", described(files)), *listed(files)))
    assert "not a plain path" in said or "must be a table" in said


@pytest.mark.parametrize("path", ["MODEL.safetensors", "SSD.json", "ssd.json", "extra", "model.safetensors/a"])
def test_files_that_would_lie_in_the_same_place_are_refused(described, refused, path):
    files = {**FILES, path: b"evil"}
    assert "lie in the same place" in refused(tar(("notes/ssd.json", described(files)), *listed(files)))


@pytest.mark.parametrize("path", ["pytorch_model.bin", "a.pt", "a.PKL", "extra/a.pth", "a.ckpt", "a.pickle"])
def test_pickles_are_refused(described, refused, path):
    files = {**FILES, path: b"evil"}
    assert "may be a pickle" in refused(tar(("notes/ssd.json", described(files)), *listed(files)))


@pytest.mark.parametrize(
    "member",
    [
        header("notes/model.safetensors", tarfile.SYMTYPE, linkname="/etc/passwd"),
        header("notes/model.safetensors", tarfile.LNKTYPE, linkname="notes/ssd.json"),
        header("notes/model.safetensors", tarfile.CHRTYPE, devmajor=1, devminor=3),
        header("notes/model.safetensors", tarfile.BLKTYPE),
        header("notes/model.safetensors", tarfile.FIFOTYPE),
        header("notes/model.safetensors", tarfile.CONTTYPE),
        header("notes/model.safetensors", tarfile.GNUTYPE_SPARSE),
        header("notes/extra", tarfile.DIRTYPE),
        header("notes/a", tarfile.XHDTYPE),
        header("notes/a", tarfile.XGLTYPE),
        header("notes/a", tarfile.GNUTYPE_LONGLINK),
        header("notes/a", b"Z"),
    ],
    ids=lambda member: member.type.decode(),
)
def test_what_is_no_regular_file_is_refused(described, refused, member):
    said = refused(tar(("notes/ssd.json", described()), (member, b""), *listed()))
    assert "which is not a regular file" in said
    assert "which is not a regular file" in refused(tar((copy.copy(member), b""), ("notes/ssd.json", described())))


def test_a_pax_header_cannot_change_what_a_member_says(described, refused):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as written:
        for name, content in [("notes/ssd.json", described()), *listed()]:
            made = tarfile.TarInfo(name)
            made.size = len(content)
            made.pax_headers = {"size": "1"} if name.endswith("safetensors") else {}
            written.addfile(made, io.BytesIO(content))
    stream.seek(0)
    assert "which is not a regular file" in refused(stream)


def test_a_long_name_is_bounded_before_it_is_read(refused):
    claim = header("././@LongLink", tarfile.GNUTYPE_LONGNAME)
    claim.size = 1 << 40
    assert "which is not a regular file" in refused(io.BytesIO(claim.tobuf(tarfile.GNU_FORMAT)))


def test_a_chain_of_long_names_is_refused(refused):
    name = header("././@LongLink", tarfile.GNUTYPE_LONGNAME)
    said = refused(tar(*[(copy.copy(name), b"a\0")] * 2000))
    assert "nested too deeply" in said


def test_a_negative_size_is_refused(refused):
    claim = tarfile.TarInfo("notes/ssd.json")
    claim.size = -512
    assert "which is not a regular file" in refused(io.BytesIO(claim.tobuf(tarfile.GNU_FORMAT) + bytes(1024)))


def test_a_file_that_is_not_listed_or_comes_twice_is_refused(described, refused):
    said = refused(tar(("notes/ssd.json", described()), *listed(), ("notes/diary.txt", b"")))
    assert "it holds 'notes/diary.txt', which its manifest does not list" in said
    for repeated in ("notes/model.safetensors", "notes/ssd.json"):
        assert "or lists once" in refused(tar(("notes/ssd.json", described()), *listed(), (repeated, b"")))


def test_two_folders_are_refused(described, refused):
    said = refused(tar(("notes/ssd.json", described()), ("letters/model.safetensors", weights()), *listed()))
    assert "'letters/model.safetensors'" in said


def test_a_file_that_is_missing_is_named(described, refused):
    said = refused(tar(("notes/ssd.json", described()), *listed()[1:]))
    assert "it lacks 'notes/model.safetensors', which its manifest lists" in said


def test_a_file_that_differs_from_its_digest_is_named(described, refused):
    files = {**FILES, "extra/README.md": b"# other\n"}
    said = refused(tar(("notes/ssd.json", described()), *listed(files)))
    assert "its file 'extra/README.md' differs from the digest in its manifest" in said


@pytest.mark.parametrize(
    "content",
    [
        b"",
        weights(claimed=1 << 60),
        weights(claimed=300),
        weights(claimed=10),
        weights()[:-1],
        weights() + b"\0",
        weights(header=b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4000000]}}'),
        weights(header=b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,8]}}'),
        weights(header=b'{"a":{"dtype":"F\\u001b[2J","shape":[2],"data_offsets":[0,8]}}'),
        weights(header=b"[" * 9000),
    ],
    ids=["empty", "huge", "beyond", "inside", "short", "long", "offsets", "shape", "type", "deep"],
)
def test_weights_whose_header_lies_are_refused(described, refused, content):
    files = {**FILES, "model.safetensors": content}
    said = refused(tar(("notes/ssd.json", described(files)), *listed(files)))
    assert "its 'model.safetensors' is not a sound safetensors file (" in said
    assert said.isprintable()


def test_a_model_made_for_another_tokenizer_than_it_brings_is_refused(described, refused):
    files = {**FILES, "tokenizer.json": tokenizer("b", "a")}
    said = refused(tar(("notes/ssd.json", described(files)), *listed(files)))
    assert "its tokenizer.json is not the one that the model was made for" in said


@pytest.mark.parametrize("content", [b"{", b"[" * 100_000, b'{"model": 3}', b"\xff"])
def test_a_tokenizer_that_is_none_is_refused(described, refused, content):
    files = {**FILES, "tokenizer.json": content}
    said = refused(tar(("notes/ssd.json", described(files)), *listed(files)))
    assert "the tokenizer.json is not one" in said or "nested too deeply" in said


def test_a_tokenizer_is_needed(described, refused):
    files = {"model.safetensors": weights()}
    assert "lists no tokenizer.json" in refused(tar(("notes/ssd.json", described(files)), *listed(files)))


def test_what_is_read_as_a_whole_is_bounded(described, refused, monkeypatch):
    monkeypatch.setitem(archive._LARGEST_READ, "tokenizer.json", 10)
    assert "its tokenizer.json has" in refused(tar(("notes/ssd.json", described()), *listed()))
    claim = tarfile.TarInfo("notes/ssd.json")
    claim.size = 1 << 40
    said = refused(io.BytesIO(claim.tobuf(tarfile.GNU_FORMAT)))
    assert "its ssd.json has 1,099,511,627,776 bytes, more than the 1,048,576 that any model needs" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": 9}, "has schema 9, but this version of ssd knows 1"),
        ({"kind": "huge"}, "'kind' must be one of core, small, adapter"),
        ({"name": "../notes"}, "'../notes' is not a model name"),
        ({"core": "/etc"}, "'/etc' is not a model name"),
        ({"base": "\u001b[2J"}, "is not a model name"),
        ({"architecture": "\ud800"}, "ssd.json cannot be read"),
        ({"constants": {"K": 10**400}}, "ssd.json cannot be read"),
        ({"surprise": "x" * 90_000}, "has a field"),
        ({"weight": 2}, "'weight' must be a number above 0 and at most 1"),
    ],
)
def test_a_manifest_that_cannot_be_right_is_refused(described, refused, changes, said):
    answer = refused(tar(("notes/ssd.json", described(**changes)), *listed()))
    assert said in answer
    assert answer.isprintable()
    assert len(answer) < 600


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_none_is_refused(refused, text):
    assert "'notes.tar' cannot be imported: " in refused(tar(("notes/ssd.json", text), *listed()))


def test_an_archive_that_does_not_begin_with_a_manifest_is_refused(described, refused):
    said = refused(tar(*listed(), ("notes/ssd.json", described())))
    assert "it begins with 'notes/model.safetensors', not with a model's ssd.json" in said
    assert "it begins with 'ssd.json'" in refused(tar(("ssd.json", described())))
    assert "it is empty" in refused(tar())


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x1f\x8b\x08" + b"a" * 2000, b"text " * 500])
def test_what_is_no_tar_is_refused(refused, data):
    assert "it is not a plain tar archive" in refused(io.BytesIO(data))


def test_an_archive_that_is_cut_anywhere_leaves_nothing(put, refused):
    entry = put()
    whole = exported(entry).getvalue()
    content = len(whole.rstrip(b"\0"))
    for length in range(0, content, 300):
        assert "'notes.tar' cannot be imported: " in refused(io.BytesIO(whole[:length]), "letters")


def test_any_changed_byte_of_the_files_is_noticed(put, refused):
    whole = bytearray(exported(put()).getvalue())
    for file, content in FILES.items():
        changed = bytearray(whole)
        changed[whole.index(content, whole.index(f"notes/{file}".encode()))] ^= 1
        assert f"its file {file!r} differs" in refused(io.BytesIO(changed), "letters")
