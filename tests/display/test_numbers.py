"""Numbers as they are written and as people type them."""

import pytest

from helpers.display.numbers import number, read_number, split_number


@pytest.mark.parametrize(
    ("value", "text"),
    [(10.123456, "10.12"), (32.0, "32.00"), (1234.5678, "1,235"), (0.01234, "0.01234"), (0.0, "0"),
     (1.5e-5, "1.5e-05"), (2.5e12, "2.5e+12"), (1234567, "1,234,567"), (True, "yes"), (None, ""),
     (float("nan"), "no data"), (float("-inf"), "no data"), ("as it is", "as it is")],
)  # fmt: skip
def test_numbers_as_a_reader_wants_them(value, text):
    assert number(value) == text


def test_fewer_digits_and_no_empty_decimals():
    assert (number(812.44, 3), number(5.0, 3), number(1234.5, 3)) == ("812", "5.00", "1,234")
    assert (number(32.0, trim=True), number(32.5, trim=True)) == ("32", "32.50")


READ = {
    "": {"1,200": 1200, "1 200 tokens": 1200, "1_200_000": 1.2e6, "3.5 GiB": 3.5, "12 %": 12}
    | {"~4e5": 4e5, "-.5": -0.5, " 1. ": 1},
    "tokens": {"100k": 1e5, "104k tokens": 104_000, "1.2M": 1.2e6, "1.2 million": 1.2e6}
    | {"1.5 a token": 1.5},
    "blocks": {"12.": 12},
    "FLOP/byte": {"3 G": 3e9},
    "GiB": {"512 MiB": 0.5, "16 GB": 16e9 / 2**30, "3.5 gib": 3.5},
    "KiB": {"800 KiB": 800, "1 Mi": 1024},
    "ms": {"2 s": 2000, "250 µs": 0.25, "12 ms/token": 12},
    "%": {"98 %": 98},
    "x": {"4x": 4, "4 times": 4},
    "share": {"90 %": 0.9, "0.9": 0.9},
    "tokens/s": {"2k/s": 2000, "812 tokens/sec": 812, "120 tokens/min": 2},
    "requests/s": {"30 requests per minute": 0.5, "7200 requests/h": 2},
}
# Another kind of unit, a prefix that may be 1000 or 1024, a letter that may be anything.
UNCLEAR = {
    "": ("", "abc", "3 or 4", "1.2.3", "1,5", "nan", "1e999", "0x10"),
    "tokens": ("12 MiB", "1.2m"),
    "x": ("30 %",),
    "%": ("0.9x",),
    "GiB": ("3 ms", "12 G"),
}


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [(text, unit, value) for unit, found in READ.items() for text, value in found.items()],
)
def test_numbers_as_people_type_them(text, unit, value):
    assert read_number(text, unit) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "unit"), [(text, unit) for unit, texts in UNCLEAR.items() for text in texts]
)
def test_what_is_unclear_is_not_guessed(text, unit):
    assert read_number(text, unit) is None


def test_a_number_and_what_stands_behind_it():
    assert split_number(" ~1,200 tokens ") == (1200.0, "tokens")
    assert split_number("812,5 ms")[0] is None, "a decimal comma or a slip: readable in two ways"
