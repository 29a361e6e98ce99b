"""Which of the older character sets bytes are in: each is scored by how much its letters look like text."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

_MOST = 2_000  # characters outside ASCII that are scored
_LEAST_SCORE = 0.42  # of a text that is taken for one; the best possible is about 1
_BONUS = 0.002  # for what charset-normalizer believes, which decides between equals; Latin letters it judges badly
_PRIOR = {"cp1252": 0.35, "cp1251": 0.2}  # spread over the characters: it decides where they are few
_PRIOR |= dict.fromkeys(("cp437", "cp850", "cp866", "mac-roman", "mac-cyrillic"), -0.65)  # few such files are left
_PRIOR |= dict.fromkeys(("cp932", "euc_jp", "gb18030", "big5", "cp949"), -0.5)  # a single pair of bytes tells little
_FOREIGN = -1.0  # the same for letters that are not Latin in a text that mostly is

_PUNCTUATION = "“”‘’‚„–—…«»‹›€£§°·•№©®™¿¡½¼¾×±\xa0\xad"
_INNER = "’‘'·-–—‑\xad"  # what a word may have between its letters

_FRENCH = {1.0: "éèêàçâîôûùëïœ"}  # languages by themselves, since a word or two have letters of one alone
_NORDIC = {1.0: "åäöæøéü"}
_IBERIAN = {1.0: "áéíóúñãõçâêôàü"}
_WESTERN = {1.0: "éäöüàè", 0.9: "ñãçß", 0.8: "óíáåêõì", 0.7: "ùò", 0.6: "øæôâîûú", 0.5: "ïëœµ"}
_ICELANDIC = {1.0: "áéíóúöæ", 0.8: "þðý"}
_CENTRAL = {1.0: "ščřžłąż", 0.9: "ęćśőű", 0.8: "ěůțșţ", 0.7: "ńă", 0.6: "đý", 0.4: "ťďňźľ", 0.1: "ŕĺ"}
_TURKISH = {1.0: "ışğöü", 0.9: "ç", 0.6: "İâîû"}
_BALTIC = {0.8: "āēīūšžčė", 0.7: "įąņģ", 0.5: "ųę", 0.4: "ļķ"}
_CYRILLIC = {1.0: "оеаинтсрвлк", 0.9: "мдпуяыьгзбчйхжшюцщэфъ", 0.7: "іїєёђћљњџј", 0.3: "ґўқңү"}
_GREEK = {1.0: "αοιετσνηυρπκμλως", 0.9: "όίάέήύώγδθβφχξζψ", 0.5: "ϊΐϋΰ"}
_HEBREW = {1.0: "יוהלאבתמרנשחקדםעפ", 0.8: "גזטכסצךןףץ"}
_ARABIC = {1.0: "اليمنتربودهكعسف", 0.8: "حقجشصضطظخذزثغةىءأإآؤئ،؟"}
_THAI = {0.9: "".join(map(chr, range(0xE01, 0xE3B))) + "".join(map(chr, range(0xE40, 0xE4F)))}


@dataclass(frozen=True)
class _Letters:
    """A character set of one byte a character.

    codec: Python's name for it.
    weights: how usual each of its letters is in text.
    """

    codec: str
    weights: Mapping[float, str]

    @property
    def is_latin(self) -> bool:
        """Whether its letters are Latin."""
        return min(letter for letters in self.weights.values() for letter in letters) < "\u0370"

    @cached_property
    def _usual(self) -> dict[str, float]:
        lower = {letter: weight for weight, letters in self.weights.items() for letter in letters}
        if self.is_latin and self.codec not in (
            "cp1252",
            "cp1254",
        ):  # what is the same character in Western text must not decide
            western = {letter: weight for weight, letters in _WESTERN.items() for letter in letters}
            lower |= {c: w for c, w in western.items() if c.encode(self.codec, "replace") == c.encode("cp1252")}
        upper = {letter.upper(): weight / 2 for letter, weight in lower.items() if letter.upper() != letter}
        return dict.fromkeys(_PUNCTUATION, 0.6) | upper | lower | {"ÿ": -0.5}  # the last is byte FF, seldom a letter

    def score(self, text: str) -> float:
        """How much a decoded text looks written, at most about 1."""
        return _mean(text, self._fit)

    def _fit(self, before: str, character: str, after: str) -> float:
        fit = self._usual.get(character, 0.0 if character.isalpha() else -1.0)
        if character.isalpha():
            begins_word = not before.isalpha() and after.islower()
            in_capitals = any(_is_ascii_letter(one) and one.isupper() for one in (before, after))
            if character.isupper() and (begins_word or in_capitals):
                fit *= 1.8
            raised = (character.isupper() and before.islower()) or (character.islower() and after.isupper())
            at_digit = before.isdigit() or after.isdigit()
            mixed = character > "\u0370" and (_is_ascii_letter(before) or _is_ascii_letter(after))
            ends_word = character in "àèìòù" and not after.isalpha()  # as in Italian
            return fit - 1.5 * raised - 0.5 * at_digit - 1.0 * mixed + 0.2 * ends_word
        within_word = character not in _INNER and before.isalpha() and after.isalpha()
        return fit - 1.5 * within_word


@dataclass(frozen=True)
class _Pairs:
    """A character set of one or two bytes a character, for Chinese, Japanese or Korean.

    codec: Python's name for it.
    usual: of the bytes of a character, how usual it is.
    """

    codec: str
    usual: Callable[[bytes], float]
    is_latin: bool = False
    _seen: dict[str, float] = field(default_factory=dict, compare=False)

    def score(self, text: str) -> float:
        """How much a decoded text looks written, at most about 1.2."""
        return _mean(text, self._fit)

    def _fit(self, before: str, character: str, after: str) -> float:
        fit = self._seen.get(character)
        if fit is None:
            fit = self._seen[character] = self.usual(character.encode(self.codec, "replace"))
        return fit - 0.7 * (_is_ascii_letter(before) or _is_ascii_letter(after))


def _is_ascii_letter(character: str) -> bool:
    return character.isascii() and character.isalpha()


def _mean(text: str, fit: Callable[[str, str, str], float]) -> float:
    """The mean of what the characters outside ASCII are worth, each judged between its neighbours."""
    total, count = 0.0, 0
    for before, character, after in zip(" " + text, text, text[1:] + " ", strict=False):
        if character > "\x7f":
            total += fit(before, character, after)
            count += 1
            if count == _MOST:
                break
    return total / max(count, 1)


def _shift_jis(pair: bytes) -> float:
    if len(pair) < 2:
        return -0.3  # half-width katakana
    if pair[0] in (0x82, 0x83):
        return 1.2  # kana
    return 0.8 if pair[0] == 0x81 or b"\x88\x9f" <= pair <= b"\x98\x72" else -0.5


def _euc_jp(pair: bytes) -> float:
    if len(pair) != 2 or pair[0] == 0x8E:
        return -0.5
    if pair[0] in (0xA4, 0xA5):
        return 1.2  # kana
    return 0.9 if pair[0] in (0xA1, 0xA3) or 0xB0 <= pair[0] <= 0xCF else -0.5


def _gb(pair: bytes) -> float:
    if len(pair) != 2 or pair[1] < 0xA1:
        return -0.5
    return 1.0 if 0xB0 <= pair[0] <= 0xD7 else 0.8 if pair[0] in (0xA1, 0xA3) else 0.0 if pair[0] < 0xAF else -0.5


def _big5(pair: bytes) -> float:
    if len(pair) != 2:
        return -0.5
    return 1.0 if 0xA4 <= pair[0] <= 0xC6 else 0.8 if pair[0] == 0xA1 else -0.5


def _korean(pair: bytes) -> float:
    if len(pair) != 2 or pair[1] < 0xA1:
        return -0.5
    return 1.2 if 0xB0 <= pair[0] <= 0xC8 else 0.8 if pair[0] in (0xA1, 0xA3) else -0.5


_CHARSETS: tuple[_Letters | _Pairs, ...] = (  # of equals the first is chosen
    _Letters("cp1252", _WESTERN),
    *(_Letters("cp1252", letters) for letters in (_FRENCH, _NORDIC, _IBERIAN, _ICELANDIC)),
    _Letters("cp1250", _CENTRAL),
    _Letters("iso8859-2", _CENTRAL),
    _Letters("cp1251", _CYRILLIC),
    _Letters("koi8-r", _CYRILLIC),
    _Letters("koi8-u", _CYRILLIC),
    _Letters("cp866", _CYRILLIC),
    _Letters("iso8859-5", _CYRILLIC),
    _Letters("mac-cyrillic", _CYRILLIC),
    _Letters("cp1253", _GREEK),
    _Letters("cp1254", _TURKISH),
    _Letters("cp1255", _HEBREW),
    _Letters("cp1256", _ARABIC),
    _Letters("cp1257", _BALTIC),
    _Letters("cp874", _THAI),
    _Letters("cp850", _WESTERN),
    _Letters("cp437", _WESTERN),
    _Letters("mac-roman", _WESTERN),
    _Pairs("cp932", _shift_jis),
    _Pairs("euc_jp", _euc_jp),
    _Pairs("gb18030", _gb),
    _Pairs("big5", _big5),
    _Pairs("cp949", _korean),
)


def likeliest(data: bytes) -> str | None:
    """The codec in which bytes that are no UTF-8 are read best; None if they look like text in none.

    data: a few kilobytes, of which the last character may be cut.
    """
    believed, is_latin = _believed(data), _is_mostly_latin(data)
    best, highest = None, -1.0
    for charset in _CHARSETS:
        try:
            text = codecs.getincrementaldecoder(charset.codec)().decode(data)
        except UnicodeDecodeError:
            continue
        score = charset.score(text) + _BONUS * (charset.codec == believed and not charset.is_latin)
        if score <= _LEAST_SCORE:
            continue
        prior = _PRIOR.get(charset.codec, 0.0) + (_FOREIGN if is_latin and not charset.is_latin else 0.0)
        score += prior / max(sum(character > "\x7f" for character in text), 1)
        if score > highest + 1e-6:
            best, highest = charset.codec, score
    return best


def _is_mostly_latin(data: bytes) -> bool:
    """Whether bytes have far more letters and figures of ASCII than other characters."""
    return sum(map(bytes.isalnum, map(bytes, zip(data, strict=True)))) >= 2 * sum(byte > 0x7F for byte in data)


def _believed(data: bytes) -> str | None:
    """What charset-normalizer takes the bytes for, by the names used here; it is good at long texts."""
    from charset_normalizer import from_bytes

    found = from_bytes(data).best()
    try:
        return None if found is None else codecs.lookup(found.encoding).name
    except LookupError:
        return None
