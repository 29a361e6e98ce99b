"""From bytes to text: UTF-8, else what a mark, statistics, a declaration or the letters themselves tell."""

from __future__ import annotations

import codecs
import re
import unicodedata
from dataclasses import dataclass

from ssdcli.machine.charsets import likeliest

REPLACEMENT = "\ufffd"
HEAD_BYTES = 8 << 10

_MARKS = (  # UTF-32 first: its mark in little-endian order begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
_SINGLE = frozenset({"koi8-r", "koi8-u", "mac-roman", "mac-cyrillic", "cp437", "cp850", "cp852", "cp866", "cp874"})
_SINGLE |= {f"iso8859-{n}" for n in range(1, 17)} | {f"cp125{n}" for n in range(9)}
_NO_TEXT = frozenset({"Cc", "Cn", "Co", "Cs"})  # categories: controls, unassigned, private use, surrogates
_WHATWG: dict[str, str | None] = {"gbk": "gb18030", "x-user-defined": None, "replacement": None}
_ASCII = ("us-ascii", "ascii", "ansi_x3.4-1968")
_NO_CHARSETS = frozenset(
    {"charmap", "idna", "mbcs", "oem", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"}
)
_SURROGATE = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")  # half of a pair of UTF-16, in UTF-8
_NOT_ASCII = re.compile(rb"[\x80-\xff]")
_TEXT_CONTROLS = frozenset("\t\n\v\f\r\b\x1b\x1a")  # the last ends a text of DOS
_STRANGE = 0.02  # share of a text's characters that may be controls
_SMALL_ALPHABETS = 0x11  # the rows of Unicode before Hangul and the Chinese characters
_ODD = 0.05  # share of invalid and control characters in text of one byte a character
_FEWEST_WIDE = 16  # bytes by which text without any NUL is known to be in a wide encoding
_TABS = 0.3  # share of the tabs in text of one byte a character, at most
_NULS = 2  # in the head of a text
_REPLACED = 0.3  # share of a text's characters that may be invalid
_BEFORE = 16  # characters that stand before these, so that a letter is seen in its word
_FALSE = 0.5  # share of the characters outside ASCII that are invalid where a declaration is false
_WINDOW = HEAD_BYTES  # bytes from the first that is no UTF-8, by which the character set is judged

_SHOWN = {"cp932": "Shift-JIS", "gb18030": "GB 18030", "cp949": "EUC-KR", "euc_jp": "EUC-JP", "big5": "Big5"}
_SHOWN |= {"big5hkscs": "Big5", "iso2022_jp": "ISO-2022-JP"}


@dataclass(frozen=True)
class Decoded:
    """A text and how it was read.

    encoding: as people call it.
    replaced: how many characters were invalid, and replaced or left out.
    """

    text: str
    encoding: str
    replaced: int


def shown(codec: str) -> str:
    """A codec's name as people write it: `UTF-16-LE`, `windows-1252`, `KOI8-R`."""
    if codec in _SHOWN:
        return _SHOWN[codec]
    return codec.replace("cp125", "windows-125") if codec.startswith("cp125") else codec.replace("_", "-").upper()


def codec_of(label: str | None) -> str | None:
    """The codec that a declared label means, by the WHATWG's table, else by Python's names; None for no known one."""
    import webencodings

    label = (label or "").strip().strip("\"'").strip()
    if not label or not label.isascii():
        return None
    for name in (label, label.replace("-", "").replace(" ", ""), label.split()[0]):
        found = webencodings.lookup(name)
        if found is not None:
            codec: str = found.codec_info.name.lower()
            return _WHATWG.get(codec, codec)
        try:
            info = codecs.lookup(name)
        except (LookupError, ValueError):
            continue
        if info._is_text_encoding and info.name.replace("_", "-") not in _NO_CHARSETS:
            return info.name
    return None


def wide_codec(head: bytes) -> str | None:
    """UTF-16 or UTF-32, if the first bytes are in one of them: by their mark, or because they then read as text."""
    for mark, codec in _MARKS:
        if head.startswith(mark):
            return codec if codec in _WIDE else None
    if len(head) < 4:
        return None
    found = [codec for codec in _WIDE if _reads_as_text(head, codec)]
    return min(found, key=lambda codec: _rows(head, codec), default=None)


def _rows(head: bytes, codec: str) -> int:
    """How many rows of 256 characters a text uses: few in the right byte order, many where it is reversed."""
    text = codecs.getincrementaldecoder(codec)().decode(head[: len(head) // 4 * 4])
    return len({ord(c) >> 8 for c in text})


def _reads_as_text(head: bytes, codec: str) -> bool:
    """Whether bytes without a mark are text in a wide encoding: nothing strange, but blanks, kana or one alphabet."""
    try:
        text = codecs.getincrementaldecoder(codec)().decode(head[: len(head) // 4 * 4])
    except UnicodeDecodeError:
        return False
    if not text or _strange(text, _NO_TEXT) > _STRANGE * len(text):
        return False
    narrow = head.replace(b"\0", b"").decode("utf-8", "replace")
    if b"\0" not in head and len(head) < _FEWEST_WIDE and not _strange(narrow):
        return False
    odd = narrow.count(REPLACEMENT) + _strange(narrow)
    if narrow.count("\t") > _TABS * len(narrow):
        odd = len(narrow)  # the row of Devanagari, whose letters are else ASCII
    if odd <= _ODD * len(narrow) and head.count(0) < 0.2 * len(head):
        return False  # text of one byte a character, with or without a few NULs
    plain = sum(c < "\x80" or "\u3000" <= c <= "\u30ff" for c in text)
    alphabets = {ord(c) >> 8 for c in text if c > "\x7f"}
    if plain:
        return plain >= (0.01 if b"\0" in head else 0.2) * len(text)
    return len(alphabets) == 1 and max(alphabets) < _SMALL_ALPHABETS and len(set(text)) > 1


def _strange(text: str, categories: frozenset[str] = frozenset({"Cc"})) -> int:
    """How many characters no text has: controls, or of further categories."""
    return sum(unicodedata.category(c) in categories and c not in _TEXT_CONTROLS and c != "\x85" for c in text)


def looks_binary(head: bytes) -> bool:
    """Whether first bytes hold too much that text does not have; a NUL or two are borne."""
    head = head[:HEAD_BYTES]
    if wide_codec(head) is not None:
        return False
    # Not final, so that a character which the end of the head cuts does not count as invalid.
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(head)
    nuls = text.count("\0")
    strange = sum((c < " " or c == "\x7f") and c not in _TEXT_CONTROLS for c in text)
    if nuls > _NULS or strange - nuls > _STRANGE * len(text) or 10 * nuls > len(text):
        return True
    return text.count(REPLACEMENT) > _REPLACED * len(text) and likeliest(head) is None


class TextDecoder:
    """Decodes bytes as they come: as ASCII as long as they are, and from the first other byte on as what follows is.

    In UTF-8, invalid bytes are replaced. NULs are left out. Line ends are kept.

    codec: Python's name of what the bytes are in, as far as it is known.
    replaced: how many characters were invalid, NULs included.
    """

    def __init__(self, codec: str | None = None) -> None:
        """Begin with a codec, or find it."""
        self.codec = codec or "utf-8"
        self.replaced = 0
        self._settled = codec is not None
        self._begun = False
        self._held = b""
        self._seam = b""
        self._decoder = codecs.getincrementaldecoder(self.codec)("replace")

    def decode(self, data: bytes, final: bool = False) -> str:
        """The text of further bytes, as far as they make characters."""
        if not self._begun:
            data = self._begin(data, final)
            if not self._begun:
                return ""
        if self._settled:
            return self._replacing(data, final)
        return self._searching(data, final)

    def _begin(self, data: bytes, final: bool) -> bytes:
        """Wait for the first bytes, and let a mark or statistics decide; returns the bytes without a mark."""
        self._held += data
        if len(self._held) < _WINDOW and not final:
            return b""
        data, self._held, self._begun = self._held, b"", True
        marked = next(((mark, codec) for mark, codec in _MARKS if data.startswith(mark)), None)
        found = (marked[1] if marked else wide_codec(data[:_WINDOW])) if not self._settled or marked else None
        if found is None and not self._settled and _has_escapes(data):
            found = "iso2022_jp"
        if found is not None and (found != "utf-8" or self._settled):
            self._settle(found)
        return data[len(marked[0]) :] if marked else data

    def _searching(self, data: bytes, final: bool) -> str:
        """Pass on ASCII; from the first other byte on, wait for enough to judge which character set it is."""
        data, self._held = self._held + data, b""
        if data.isascii() and not final:
            return self._without_nuls(data.decode("ascii"))
        found = _NOT_ASCII.search(data)
        start = len(data) if found is None else found.start()
        window = data[start : start + _WINDOW]
        if len(window) < _WINDOW and not final:
            self._held = data[start:]
            return self._without_nuls(data[:start].decode("ascii"))
        self._settle(_codec_from(window, data[:start].decode("ascii"), final))
        return self._replacing(data, final)

    def _settle(self, codec: str) -> None:
        self.codec, self._settled = codec, True
        self._decoder = codecs.getincrementaldecoder(codec)("replace")

    def _replacing(self, data: bytes, final: bool) -> str:
        """Decode with replacements, which are counted apart from those that the bytes themselves spell."""
        text = self._decoder.decode(data, final)
        literal = _literal(self.codec)
        # A U+FFFD that the bytes themselves spell is valid; two calls may share its bytes.
        spelled = (self._seam + data).count(literal) if literal else 0
        self.replaced += text.count(REPLACEMENT) - spelled
        self._seam = (self._seam + data)[1 - len(literal) :] if len(literal) > 1 else b""
        return self._without_nuls(text)

    def _without_nuls(self, text: str) -> str:
        self.replaced += text.count("\0")
        return text.replace("\0", "")


def _literal(codec: str) -> bytes:
    """A replacement character in a codec; none where it has no bytes for one."""
    try:
        return REPLACEMENT.encode(codec)
    except UnicodeEncodeError:
        return b""


def _codec_from(window: bytes, before: str, final: bool) -> str:
    """The codec of bytes that begin with the first that is not ASCII: UTF-8 if most of them are.

    before: the text up to there. final: whether nothing follows.
    """
    plain = _SURROGATE.sub(b"", window)  # which is invalid, but shows what was meant
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(plain, final and len(window) < _WINDOW)
    invalid = text.count(REPLACEMENT) - plain.count(REPLACEMENT.encode())
    valid = sum(c > "\x7f" for c in text) - invalid
    if invalid == 0 or valid > 2 * invalid:
        return "utf-8"
    return likeliest(before[-_BEFORE:].encode("ascii") + window) or "utf-8"


def _has_escapes(data: bytes) -> bool:
    """Whether bytes of ASCII switch to Japanese and back, as mails did."""
    japanese = b"\x1b$B" in data or b"\x1b$@" in data
    return japanese and data.isascii() and _decodes(data[: data.rfind(b"\x1b(") + 3], "iso2022_jp")


def decode_bytes(data: bytes, declared: str | None = None) -> Decoded:
    """Decode what is held as a whole, by what it declares unless that is unknown or false.

    declared: a label, such as `iso-8859-1`, as a page or a mail has it.
    """
    decoder = TextDecoder(true_codec(data, declared))
    text = decoder.decode(data, final=True)
    return Decoded(text, shown(decoder.codec), decoder.replaced)


def true_codec(data: bytes, declared: str | None) -> str | None:
    """The codec that bytes declare; None if they declare none that is known and can be true."""
    codec = codec_of(declared)
    if (declared or "").strip(" \"'").lower() in _ASCII and not data.isascii():
        return None  # to the WHATWG it is windows-1252, but mail programs declare it whatever they send
    if codec is None or (codec in _WIDE and b"\0" not in data and _decodes(data, "utf-8")):
        return None  # a declaration that could be read as ASCII is none of a wide encoding
    return None if _is_false(data, codec) else codec


def _is_false(data: bytes, codec: str) -> bool:
    """Whether bytes cannot be meant in the codec that they declare."""
    if _decodes(data, "utf-8"):
        return not data.isascii() and codec in _SINGLE
    if _decodes(data, codec):
        return False
    text = data.decode(codec, "replace")  # windows-1252 leaves five bytes open; one of them among many is a slip
    return codec == "utf-8" or text.count(REPLACEMENT) > _FALSE * sum(c > "\x7f" for c in text)


def _decodes(data: bytes, codec: str) -> bool:
    try:
        data.decode(codec)
    except UnicodeError:
        return False
    return True
