from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdcli.machine.encodings import TextDecoder, codec_of, decode_bytes, looks_binary, wide_codec

WESTERN = "The potter’s wheel – “déjà réparée” – cost 40 € in Köln, señor; ça va où?\n"
SPOKEN = {
    "cp1252": WESTERN,
    "mac-roman": WESTERN.replace(" €", ""),
    "cp850": "Übung für Märta: größere Häuser, très bien, où?\n",
    "cp1250": "Příliš žluťoučký kůň úpěl ďábelské ódy, a my jsme šli domů.\n",
    "cp1254": "Bugün şişeler kırıldı; çığlık attığı için ışık söndü.\n",
    "cp1251": "Кот сидел на окне и смотрел, как падает снег.\n",
    "koi8-r": "Кот сидел на окне и смотрел, как падает снег.\n",
    "cp866": "Кот сидел на окне и смотрел, как падает снег.\n",
    "cp1253": "Η γάτα καθόταν στο παράθυρο και κοίταζε το χιόνι.\n",
    "cp1255": "החתול ישב ליד החלון והסתכל על השלג\n",
    "cp1256": "جلست القطة عند النافذة ونظرت إلى الثلج\n",
    "cp932": "猫は窓のそばに座って、雪が降るのを見ていました。\n",
    "euc_jp": "猫は窓のそばに座って、雪が降るのを見ていました。\n",
    "iso2022_jp": "猫は窓のそばに座って、雪が降るのを見ていました。\n",
    "gb18030": "猫坐在窗边，看着雪慢慢地落下来。\n",
    "big5": "貓坐在窗邊，看著雪慢慢地落下來。\n",
    "cp949": "고양이는 창가에 앉아 눈이 내리는 것을 보았다.\n",
}
TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cn", "Co", "Cc"), include_characters="\n\t"), min_size=1)


@pytest.mark.parametrize("codec", SPOKEN)
def test_a_sentence_is_read_in_what_it_was_written_in(codec):
    data = SPOKEN[codec].encode(codec)
    assert decode_bytes(data).text == SPOKEN[codec]
    assert decode_bytes(data).replaced == 0
    assert not looks_binary(data)


@pytest.mark.parametrize("text", ["It’s 5 €\n", "a – b\n", "He said… ok\n", "Don’t\n", "5 €\n", "café\n"])
def test_a_character_or_two_are_those_of_windows_rather_than_of_old_machines(text):
    assert decode_bytes(text.encode("cp1252")).text == text


@pytest.mark.parametrize(
    "text",
    [
        "È vero",
        "Zoë",
        "±5",
        "10 µm",
        "þetta",
        "1 × 2",
        "I said Ü to him.",
        "voilà",
        "fête",
        "smørrebrød",
        "Ærø",
        "crème brûlée",
        "cœur",
        "½ cup",
        "20 °C",
        "£5",
        "©2020",
        "¿Qué?",
        "CAFÉ",
    ],
)
def test_a_word_of_western_letters_is_not_taken_for_one_of_others(text):
    assert decode_bytes(text.encode("cp1252")).text == text


@pytest.mark.parametrize(
    ("text", "codec"), [("печь", "cp1251"), ("Dvořák", "cp1250"), ("Łódź", "cp1250"), ("příští rok", "cp1250")]
)
def test_a_word_of_other_letters_is_not_taken_for_a_western_one(text, codec):
    assert decode_bytes(text.encode(codec)).text == text


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-32"])
@given(text=TEXTS)
def test_a_mark_decides(codec, text):
    assert decode_bytes(text.encode(codec)).text == text.removeprefix("\ufeff")


@given(text=TEXTS)
def test_utf_8_is_read_as_it_is_whatever_it_says(text):
    found = decode_bytes(text.encode())
    assert (found.text, found.replaced) == (text.removeprefix("\ufeff"), 0) or wide_codec(text.encode())


WIDE = (  # with letters that make others in the reversed order, and with those whose bytes are ASCII
    "Привет, мир! Сегодня хорошая погода, и мы идём гулять в парк вместе с детьми.",
    "مرحبا بالعالم، الطقس اليوم جميل جدا ونحن ذاهبون إلى الحديقة.",
    "नमस्ते दुनिया, आज मौसम बहुत अच्छा है।\n",
)


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", [WESTERN, SPOKEN["cp1251"], SPOKEN["cp932"], "Hi all", "Кот", *WIDE])
def test_wide_encodings_without_a_mark_are_known_by_how_they_read(codec, text):
    assert decode_bytes(text.encode(codec)).text == text


def test_no_narrow_text_is_taken_for_a_wide_one():
    for text in (WESTERN, "Bush hid the facts", "this app can break", *SPOKEN.values()):
        assert wide_codec(text.encode()) is None
        assert wide_codec(text.encode().replace(b" ", b"\0", 1)) is None


@given(data=st.data(), codec=st.sampled_from(["utf-8", "cp1252", "utf-16", "utf-16-be", "cp932", "koi8-r"]))
@settings(max_examples=15, deadline=None)
def test_a_text_does_not_depend_on_how_its_bytes_come(data, codec):
    spoken = SPOKEN.get(codec, WESTERN)
    raw = ("Only ASCII here. " * data.draw(st.integers(0, 700)) + spoken * data.draw(st.integers(1, 300))).encode(codec)
    size = data.draw(st.integers(1, 9000))
    decoder = TextDecoder()
    parts = [decoder.decode(raw[start : start + size]) for start in range(0, len(raw), size)]
    assert "".join(parts) + decoder.decode(b"", final=True) == decode_bytes(raw).text == raw.decode(codec)


def test_invalid_bytes_in_utf_8_are_replaced_and_counted_but_not_those_spelt_out():
    found = decode_bytes("é ü \ufffd ".encode() * 9 + b"\xe9 end")
    assert (found.text, found.encoding, found.replaced) == ("é ü \ufffd " * 9 + "\ufffd end", "UTF-8", 1)


def test_half_pairs_and_the_end_mark_of_dos_do_not_hide_what_a_text_is():
    assert decode_bytes(b"a\xed\xa0\xbdb").encoding == "UTF-8"
    assert decode_bytes(b"a\xed\xa0\xbdb").replaced == 3
    assert not looks_binary(b"dir\r\n\x1a")


def test_nuls_in_text_are_left_out_and_counted():
    found = decode_bytes(b"The log goes on.\0 And on.\n")
    assert (found.text, found.replaced) == ("The log goes on. And on.\n", 1)


@pytest.mark.parametrize(
    ("label", "codec"),
    [
        ("ISO-8859-1", "cp1252"),
        (" 'latin1' ", "cp1252"),
        ("us-ascii", "cp1252"),
        ("gb2312", "gb18030"),
        ("x-sjis", "cp932"),
        ("ks_c_5601-1987", "cp949"),
        ("utf8", "utf-8"),
        ("cp-850", "cp850"),
        ("utf-8 foo", "utf-8"),
        ("unknown-8bit", None),
        ("x-user-defined", None),
        ("base64", None),
        ("undefined", None),
        ("é", None),
        ("", None),
        (None, None),
    ],
)
def test_labels_mean_what_the_whatwg_says(label, codec):
    assert codec_of(label) == codec


@pytest.mark.parametrize(
    ("data", "declared", "text"),
    [
        (b"\x93x\x94 \x80", "iso-8859-1", "“x” €"),
        (b"caf\xe9 au lait", "utf-8", "café au lait"),
        ("café".encode(), "iso-8859-1", "café"),
        ("café".encode(), "nonsense", "café"),
        (b"\xcf\xf0", "windows-1251", "Пр"),
        (b"plain", "utf-16", "plain"),
        ("Привет, как дела".encode("koi8-r"), "us-ascii", "Привет, как дела"),
        (b"\x93caf\xe9\x94 au lait", "US-ASCII", "“café” au lait"),
        (b"a\x81b \x93c\x94", "windows-1252", "a\ufffdb “c”"),
        ("猫".encode("gb18030"), "gbk", "猫"),
    ],
)
def test_a_declaration_is_obeyed_unless_it_is_unknown_or_false(data, declared, text):
    assert decode_bytes(data, declared).text == text


@given(
    st.binary(max_size=300), st.sampled_from([None, "utf-8", "utf-16", "cp1252", "gbk", "iso-2022-jp", "utf-7", "x"])
)
def test_no_bytes_stop_the_decoder(data, declared):
    text = decode_bytes(data, declared).text
    assert "\0" not in text


def test_bytes_that_happen_to_spell_controls_in_utf_8_are_no_sign_of_a_binary_file():
    data = "土曜日の市場で、青い皿を三枚買いました。".encode("cp932")
    assert not looks_binary(data)
    assert decode_bytes(data).text == "土曜日の市場で、青い皿を三枚買いました。"


def test_what_is_no_text_is_binary():
    draw = Random(0)
    noise = [bytes(draw.randrange(256) for _ in range(500)) for _ in range(50)]
    assert all(map(looks_binary, [*noise, b"\x89PNG\r\n\0\0text", b"\x01\x02\x03a" * 99, b"\0", b"\0\1\2", b"\0" * 99]))
    assert not looks_binary(b"")
