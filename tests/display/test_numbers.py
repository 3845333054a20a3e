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


@pytest.mark.parametrize(
    ("text", "value"),
    [("1,200", 1200), ("1 200 tokens", 1200), ("1_200_000", 1.2e6), ("3.5 GiB", 3.5), ("12 %", 12), ("~4e5", 4e5), ("-.5", -0.5), (" 1. ", 1)]
    + [(text, None) for text in ("", "abc", "3 or 4", "1.2.3", "1,5", "nan", "1e999", "0x10")],
)  # fmt: skip
def test_numbers_as_people_type_them(text, value):
    assert read_number(text) == value


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("100k", "tokens", 1e5), ("104k tokens", "tokens", 104_000), ("1.2M", "tokens", 1.2e6), ("1.2 million", "tokens", 1.2e6),
        ("2k/s", "tokens/s", 2000), ("3 G", "FLOP/byte", 3e9), ("1.5 a token", "tokens", 1.5), ("12.", "blocks", 12),
        ("512 MiB", "GiB", 0.5), ("16 GB", "GiB", 16e9 / 2**30), ("800 KiB", "KiB", 800), ("1 Mi", "KiB", 1024), ("3.5 gib", "GiB", 3.5),
        ("2 s", "ms", 2000), ("250 µs", "ms", 0.25), ("12 ms/token", "ms", 12), ("98 %", "%", 98), ("4x", "x", 4), ("4 times", "x", 4),
        # Unclear: a unit of another kind, a prefix that may be 1000 or 1024, a letter that may be anything.
        ("12 MiB", "tokens", None), ("30 %", "x", None), ("0.9x", "%", None), ("3 ms", "GiB", None), ("12 G", "GiB", None), ("1.2m", "tokens", None),
    ],
)  # fmt: skip
def test_magnitudes_and_units_count(text, unit, value):
    assert read_number(text, unit) == (value if value is None else pytest.approx(value))


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [("812 tokens/sec", "tokens/s", 812), ("120 tokens/min", "tokens/s", 2), ("30 requests per minute", "requests/s", 0.5),
     ("90 %", "share", 0.9), ("0.9", "share", 0.9), ("7200 requests/h", "requests/s", 2)],
)  # fmt: skip
def test_rates_and_shares(text, unit, value):
    assert read_number(text, unit) == pytest.approx(value)


def test_a_number_and_what_stands_behind_it():
    assert split_number(" ~1,200 tokens ") == (1200.0, "tokens")
    assert split_number("812,5 ms")[0] is None, (
        "a decimal comma or a slip: it can be read in two ways"
    )
