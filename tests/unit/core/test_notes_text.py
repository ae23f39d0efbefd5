"""Texts from anywhere: bounded, cleaned, redacted; nothing that they do may raise."""

from __future__ import annotations

import sqlite3
import sys
import unicodedata

import pytest

from deliveries.core.notes import MAX_NAME, MAX_TEXT, Note, clean, describe, salted, type_name


def test_plain_text_stays_as_it_is() -> None:
    text = 'Zürich, 東京, emoji 🎉, "quotes", tab\t, line\nbreak, 100%'
    assert clean(text) == text
    assert clean("") == ""


@pytest.mark.parametrize(
    ("character", "shown"),
    [
        ("\x00", "\\u0000"),
        ("\x1b", "\\u001b"),
        ("\r", "\\u000d"),
        ("\x7f", "\\u007f"),
        ("\x9b", "\\u009b"),
        ("\u2028", "\\u2028"),
        ("\ud800", "\\ud800"),
        ("\udfff", "\\udfff"),
    ],
    ids=lambda text: ascii(text).replace("\\", "/"),
)
def test_what_a_database_or_a_terminal_would_choke_on_is_spelled_out(character: str, shown: str) -> None:
    assert clean(f"a{character}b") == f"a{shown}b"


def test_whatever_has_no_shape_or_turns_text_around_is_spelled_out() -> None:
    """Control characters but tab and line feed, separators, surrogates, and the bidirectional controls."""
    shapeless = {
        character
        for character in map(chr, range(0x10000))
        if unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}
        or unicodedata.bidirectional(character)
        in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    } - {"\t", "\n"}
    for character in shapeless | set("\u200b\u200c\u200d\u200e\u200f\ufeff"):
        assert clean(character) == f"\\u{ord(character):04x}"


def test_a_cleaned_text_can_be_stored_and_read_back() -> None:
    everything = "".join(map(chr, [*range(0x300), 0x2028, 0x2029, *range(0xD7FF, 0xE001), 0x10FFFF]))
    text = clean(everything, limit=100_000)
    with sqlite3.connect(":memory:") as connection:
        assert connection.execute("select ?", (text,)).fetchone() == (text,)
    connection.close()
    assert "\x00" not in text


def test_a_short_text_is_not_cut_at_the_limit() -> None:
    assert clean("x" * MAX_TEXT) == "x" * MAX_TEXT


def test_a_password_that_the_cut_parts_from_its_host_is_redacted_and_nothing_else_is() -> None:
    shouted = "no answer from postgres://ann:" + "hunter2" * MAX_TEXT + "@db"
    assert clean(shouted) == "no answer from postgres://ann:[redacted]…"


@pytest.mark.parametrize("length", [MAX_TEXT + 1, MAX_TEXT * 2, MAX_TEXT * 2 + 1, 10**8])
def test_a_long_text_is_cut_and_marked(length: int) -> None:
    assert clean("x" * length) == "x" * (MAX_TEXT - 1) + "…"


def test_the_limits_are_the_documented_ones() -> None:
    assert (MAX_TEXT, MAX_NAME) == (2_000, 200)


def test_twice_the_limit_is_read_and_what_stands_beyond_is_cut() -> None:
    token = "token=" + "x" * (MAX_TEXT * 2 - len("token="))
    assert clean(token) == "token=[redacted]"
    assert clean(f"{token} beyond") == "token=[redacted]…"


def test_a_text_that_grows_when_cleaned_is_cut_too() -> None:
    text = clean("\x00" * MAX_TEXT)
    assert len(text) == MAX_TEXT
    assert text.endswith("…")


def test_a_hundred_megabytes_of_junk_are_bounded() -> None:
    assert len(clean("\x00" * 10**8)) == MAX_TEXT


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("postgresql://ann:hunter2@db.example/x is down", "hunter2"),
        ("redis://:hunter2@cache:6379", "hunter2"),
        ("HTTPS://ann:hunter2@api.example", "hunter2"),
        ("BEARER hunter2hunter2", "hunter2"),
        ("basic hunter2hunter2", "hunter2"),
        ("Authorization: Bearer hunter2", "hunter2"),
        ("Authorization: Basic hunter2", "hunter2"),
        ("Authorization: Digest hunter2", "hunter2"),
        ("pass=hunter2", "hunter2"),
        ("passphrase: hunter2", "hunter2"),
        ("pk_live_hunter2", "hunter2"),
        ("rk_live_hunter2", "hunter2"),
        ("xoxp-1234-hunter2", "hunter2"),
        ("connect to amqps+ssl://a:hunter2@mq and to http://b:hunter2@web", "hunter2"),
        ("Authorization: Bearer eyJhbGciOi.J9-_~+/=", "eyJhbGciOi"),
        ("authorization: basic dXNlcjpodW50ZXIy", "dXNlcjpodW50ZXIy"),
        ("password=hunter2&next=1", "hunter2"),
        ("PASSWORD = hunter2;", "hunter2"),
        ("passwd: hunter2", "hunter2"),
        ('{"password": "hunter 2", "user": "ann"}', "hunter 2"),
        ("{'secret': 'hunter 2'}", "hunter 2"),
        ("token=abc.def.ghi", "abc.def.ghi"),
        ("api_key: hunter2", "hunter2"),
        ("X-Api-Key: hunter2", "hunter2"),
        ("apikey=hunter2", "hunter2"),
        ("access-key=hunter2", "hunter2"),
        ("https://s3.example/x?X-Amz-Signature=hunter2&a=1", "hunter2"),
        ("no such key: sk_live_4eC39HqLyjWDarjtT1", "4eC39HqLyjWDarjtT1"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZ", "MfKQ9r8GKYqrTwjUPD8ILPZ"),
        ("xoxb-123456789012-abcdef", "123456789012"),
        ("ghp_16C7e42F292c6912E7710c838347Ae178B4a", "16C7e42F292c"),
    ],
)
def test_secrets_are_redacted(text: str, secret: str) -> None:
    assert secret not in clean(text)
    assert "[redacted]" in clean(text)


def test_what_is_no_secret_survives_beside_one() -> None:
    text = clean("GET https://ann:hunter2@api.example/v1?token=abc&page=7 gave 503")
    assert text == "GET https://ann:[redacted]@api.example/v1?token=[redacted]&page=7 gave 503"


@pytest.mark.parametrize(
    "text",
    [
        "https://example.com:8080/path is down",
        "https://example.com:8080/@ann is gone",
        "ValueError: 3 tokens expected",
        "the password was refused",
        "basic auth is refused here",
        "ann@example.com bounced",
        "risk_assessment failed",
    ],
)
def test_innocent_text_is_left_alone(text: str) -> None:
    assert clean(text) == text


def test_a_secret_is_redacted_before_the_text_is_cut() -> None:
    secret = "hunter2" * 50
    assert "hunter2" not in clean("x" * (MAX_TEXT - 20) + " token=" + secret)


class Silent(Exception):
    def __str__(self) -> str:
        return ""


class Raising(Exception):
    def __str__(self) -> str:
        raise ValueError("not even this")


class Exiting(Exception):
    def __str__(self) -> str:  # noqa: PLE0307 - it returns nothing at all
        sys.exit(3)

    __repr__ = __str__


class Interrupting(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


class Endless(Exception):
    def __str__(self) -> str:
        return str(self)  # until the stack is full


class Numeric(Exception):
    def __str__(self) -> str:
        return 7  # type: ignore[return-value]  # noqa: PLE0307 - the point of the test


class Shouting(Exception):
    def __str__(self) -> str:
        return "x" * 10**8


class Sly(str):  # noqa: SLOT000 - whoever writes traps keeps no house style
    """A str whose every habit is a trap."""

    def _trap(self, *args: object) -> str:
        sys.exit(4)

    __str__ = __repr__ = __getitem__ = __len__ = __format__ = encode = _trap  # type: ignore[assignment]


class Slyly(Exception):
    def __str__(self) -> str:
        return Sly("sly")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (ValueError("plain"), "plain"),
        (KeyError("key"), "'key'"),
        (ValueError(), "ValueError()"),
        (Silent(), "Silent()"),
        ("text", "text"),
        ("", ""),
        ({"id": 7}, "{'id': 7}"),
        (None, "None"),
        (b"\x00\xff", "b'\\x00\\xff'"),
        (ValueError("a\x00b\ud800"), "a\\u0000b\\ud800"),
        (ValueError("password=hunter2"), "password=[redacted]"),
    ],
)
def test_what_a_value_says_of_itself(value: object, expected: str) -> None:
    assert describe(value) == expected


@pytest.mark.parametrize("kind", [Raising, Exiting, Interrupting, Endless, Numeric])
def test_a_text_that_cannot_be_had_is_replaced_by_its_type(kind: type[Exception]) -> None:
    assert describe(kind()) == f"<unprintable {kind.__name__}>"


def test_a_str_that_is_a_trap_is_read_as_plain_text() -> None:
    assert type(describe(Sly("sly"))) is str
    assert describe(Sly("sly")) == "sly"
    assert describe(Slyly()) in ("sly", "<unprintable Slyly>")


def test_a_hundred_megabytes_of_error_are_bounded() -> None:
    assert len(describe(Shouting())) == MAX_TEXT
    assert len(describe(ValueError("x" * 10**8))) == MAX_TEXT


def test_a_secret_that_a_value_holds_is_redacted_by_describe_too() -> None:
    assert "hunter2" not in describe({"password": "hunter2"})


def test_a_type_is_told_by_its_name_alone() -> None:
    assert type_name(ValueError("x")) == "ValueError"
    assert type_name(None) == "NoneType"


def test_a_type_name_is_clean_and_bounded() -> None:
    shouting = type("X" * 10_000, (Exception,), {})
    assert len(type_name(shouting())) == MAX_NAME
    escaping = type("a\x1b[31mb", (Exception,), {})
    assert type_name(escaping()) == "a\\u001b[31mb"


def test_a_type_cannot_lie_about_its_name_in_its_own_body() -> None:
    class Liar(Exception):
        __name__ = 7

    assert type_name(Liar()) == "Liar"


def test_a_note_is_known_by_a_salted_digest() -> None:
    note = Note("no such user", b"salt")
    assert note.digest == "748770b15c17c1d26c8bb7378c06ec6980173f103833826e268718cfeb942e8e"
    assert note.digest == salted(b"salt", b"no such user")
    assert note.digest != Note("no such user", b"pepper").digest
    assert note.digest != Note("no such users", b"salt").digest
