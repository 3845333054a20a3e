"""Numbers as they are written and as people type them."""

import pytest

from helpers.display.numbers import NotANumber, number, read_number


@pytest.mark.parametrize(
    ("value", "text"),
    [(10.123456, "10.1"), (32.0, "32"), (9.78, "9.78"), (100.0, "100"), (812.44, "812"),
     (1234.5678, "1,235"), (0.01234, "0.0123"), (0.0, "0"),
     (1.5e-5, "1.5e-05"), (2.5e12, "2.5e+12"), (1234567, "1,234,567"), (True, "yes"), (None, ""),
     (float("nan"), "no data"), (float("-inf"), "no data"), ("as it is", "as it is")],
)  # fmt: skip
def test_numbers_as_a_reader_wants_them(value, text):
    assert number(value) == text


READ = {
    "": {"1,200": 1200, "1_200_000": 1.2e6, "~4e5": 4e5, " 1. ": 1, "0,008": 0.008, "12,5": 12.5},
    "tokens": {"100k": 1e5, "104k tokens": 104_000, "1.2M": 1.2e6, "1.2 million": 1.2e6}
    | {"1 200 tokens": 1200, "104,832": 104_832, "1,234.5": 1234.5, "1 token": 1},
    "blocks": {"12.": 12, "about 35 blocks": 35},
    "FLOP/byte": {"3 G": 3e9, "3 FLOP/byte": 3},
    "GiB": {"512 MiB": 0.5, "16 GB": 16e9 / 2**30, "3.5 gib": 3.5, "0,5 GiB": 0.5},
    "KiB": {"800 KiB": 800, "1 Mi": 1024, "32,768 bytes": 32},
    "ms": {"2 s": 2000, "250 µs": 0.25, "12 ms/token": 12, "12 ms per token": 12},
    "%": {"98 %": 98},
    "x": {"4x": 4, "4 times": 4},
    "share": {"90 %": 0.9, "0.9": 0.9},
    "tokens/s": {"2k/s": 2000, "812 tokens/sec": 812, "120 tokens/min": 2, "9 tps": 9}
    | {"812 output tok/s": 812},
    "requests/s": {"30 requests per minute": 0.5, "7200 requests/h": 2},
    "of your currency": {"$ 2.5": 2.5, "2,50 EUR": 2.5},
}
# No number, several, another kind of unit, a prefix that may be 1000 or 1024, any words, and what
# no size can be.
REFUSED = {
    "": (
        "",
        "abc",
        "3 or 4",
        "1.2.3",
        "1.234,5",
        "1,23,456",
        "nan",
        "inf",
        "1e999",
        "0x10",
        "3 kg",
    ),
    "tokens": ("12 MiB", "1.2m", "12 tokens or so", "-5", "8 blocks"),
    "x": ("30 %",),
    "%": ("0.9x",),
    "GiB": (
        "3 ms",
        "12 G",
        "8.0 MiB?",
        "8 Mio",
        "12 kg",
        "-5",
        "1e308",
        "1e308 GiB",
        "3 GiB/s",
        "1e-320",
    ),
    "tokens/s": ("812 requests/s", "812 tokens", "812 s"),
    "of your currency": ("3 ms",),
}


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [(text, unit, value) for unit, found in READ.items() for text, value in found.items()],
)
def test_numbers_as_people_type_them(text, unit, value):
    assert read_number(text, unit) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "unit"), [(text, unit) for unit, texts in REFUSED.items() for text in texts]
)
def test_what_is_unclear_is_refused_in_a_sentence(text, unit):
    with pytest.raises(NotANumber) as refused:
        read_number(text, unit)
    said = str(refused.value)
    assert f"“{text.strip()}”" in said and said.endswith(".") and "\n" not in said


def test_the_sentence_says_what_was_understood():
    with pytest.raises(NotANumber, match="12 was understood, “kg” was not"):
        read_number("12 kg", "GiB")
    with pytest.raises(NotANumber, match="“0 s” is 0 ms, and it has to be at least 1"):
        read_number("0 s", "ms", least=1)
