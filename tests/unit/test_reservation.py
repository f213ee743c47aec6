r"""The content of a reservation: `<id>\r\n<ifname>`, the id alone from old plugins, and everything else."""

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cni.reservation import MAX_SIZE, NotAReservation, Reservation, parse_reservation, render_reservation

ID = "0123456789abcdef" * 4
EMPTY, FOREIGN, UNPARSABLE = NotAReservation.EMPTY, NotAReservation.FOREIGN, NotAReservation.UNPARSABLE

SPACE = " \t\r\n\v\f"
IFNAME_LETTERS = "".join(letter for letter in map(chr, range(0x21, 0x7F)) if letter not in "/:")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(f"{ID}\r\neth0", Reservation(ID, "eth0"), id="as the plugin writes it"),
        pytest.param(ID, Reservation(ID, None), id="one line, before 0.8"),
        pytest.param(f"{ID}\r\n", Reservation(ID, None), id="trailing CRLF"),
        pytest.param(f"{ID}\n", Reservation(ID, None), id="trailing LF"),
        pytest.param(f"{ID}\r", Reservation(ID, None), id="cut inside of the CRLF"),
        pytest.param(f"{ID}\r\neth0\r\n", Reservation(ID, "eth0"), id="CRLF after the interface"),
        pytest.param(f" \t\n{ID}\r\neth0 \v\f", Reservation(ID, "eth0"), id="white space around"),
        pytest.param(f"{ID}\r\nnet-1.100@if7", Reservation(ID, "net-1.100@if7"), id="interface with punctuation"),
        pytest.param(f"{ID}\r\n{'x' * 15}", Reservation(ID, "x" * 15), id="longest interface"),
        pytest.param(f"{ID}\r\n...", Reservation(ID, "..."), id="interface of three dots"),
        pytest.param(f"{ID}\r\n{'x' * 16}", UNPARSABLE, id="interface too long"),
        pytest.param(f"{ID}\r\n.", UNPARSABLE, id="interface dot"),
        pytest.param(f"{ID}\r\n..", UNPARSABLE, id="interface dot dot"),
        pytest.param(f"{ID}\r\neth/0", UNPARSABLE, id="interface with a slash"),
        pytest.param(f"{ID}\r\neth:0", UNPARSABLE, id="interface with a colon"),
        pytest.param(f"{ID}\r\neth 0", UNPARSABLE, id="interface with a space"),
        pytest.param(f"{ID}\r\neth0\0", UNPARSABLE, id="NUL after the interface"),
        pytest.param(f"{ID}\r\neth\x7f", UNPARSABLE, id="interface with DEL"),
        pytest.param(f"{ID}\neth0", UNPARSABLE, id="LF only: no DEL ever finds it"),
        pytest.param(f"{ID}\reth0", UNPARSABLE, id="CR only"),
        pytest.param(f"{ID}\n\reth0", UNPARSABLE, id="LF CR"),
        pytest.param(f"{ID} \r\neth0", UNPARSABLE, id="space before the CRLF"),
        pytest.param(f"{ID}\r\n eth0", UNPARSABLE, id="space after the CRLF"),
        pytest.param(f"{ID}\r\neth0\r\nnet1", UNPARSABLE, id="three lines"),
        pytest.param(f"{ID}\r\n\r\neth0", UNPARSABLE, id="blank line between"),
        pytest.param("", EMPTY, id="zero bytes"),
        pytest.param("\0" * 70, EMPTY, id="NUL-filled"),
        pytest.param(SPACE, EMPTY, id="white space"),
        pytest.param("\0 \0\r\n", EMPTY, id="NULs and white space"),
        pytest.param(ID[:63], UNPARSABLE, id="63 digits: cut short"),
        pytest.param("a", UNPARSABLE, id="one digit: cut short"),
        pytest.param(f"{ID[:40]}\r\neth0", UNPARSABLE, id="cut short, with an interface"),
        pytest.param(f"{ID}\0", UNPARSABLE, id="id and a NUL"),
        pytest.param(f"{ID[:32]}{chr(0) * 32}", UNPARSABLE, id="torn by a power cut"),
        pytest.param(f"\0{ID}", UNPARSABLE, id="NUL before the id"),
        pytest.param(f"{ID}0", FOREIGN, id="65 digits"),
        pytest.param(ID.upper(), FOREIGN, id="upper-case digits"),
        pytest.param(f"default-{ID}\r\neth0", FOREIGN, id="nerdctl"),
        pytest.param("my_container.1\r\neth0", FOREIGN, id="a name"),
        pytest.param("_name", UNPARSABLE, id="a name that CNI does not allow"),
        pytest.param("two words", UNPARSABLE, id="a sentence"),
        pytest.param("\x85" + ID, UNPARSABLE, id="not UTF-8"),
        pytest.param("\ufeff".encode().decode("latin-1") + ID, UNPARSABLE, id="byte order mark"),
        pytest.param(f"{ID}\r\n\xe9th0", UNPARSABLE, id="interface outside ASCII"),
    ],
)
def test_content_is_read_as_the_plugin_means_it(content: str, expected: Reservation | NotAReservation):
    assert parse_reservation(content.encode("latin-1")) == expected


def is_exactly_the_format(data: bytes) -> bool:
    """Read by hand, without a regular expression, as the plugin's source says it."""
    container_id, divider, ifname = data.strip(SPACE.encode()).partition(b"\r\n")
    if len(container_id) != 64 or not set(container_id) <= set(b"0123456789abcdef"):
        return False
    if not divider:
        return True
    letters = set(ifname) <= set(IFNAME_LETTERS.encode())
    return letters and 1 <= len(ifname) <= 15 and ifname not in (b".", b"..")


HEXADECIMAL = st.text("0123456789abcdef", min_size=64, max_size=64)
ALMOST_AN_ID = st.text(string.hexdigits + "-g", min_size=62, max_size=66)
IFNAMES = st.text(IFNAME_LETTERS, min_size=1, max_size=15).filter(lambda name: name not in (".", ".."))
ALMOST_THE_FORMAT = st.tuples(
    st.text(SPACE + "\0", max_size=2),
    HEXADECIMAL | ALMOST_AN_ID,
    st.sampled_from(["", "\r\n", "\n", "\r", "\r\n\r\n", " \r\n"]),
    st.text(IFNAME_LETTERS + "/: \0", max_size=17),
    st.text(SPACE + "\0", max_size=2),
).map(lambda parts: "".join(parts).encode())


@given(st.binary(max_size=MAX_SIZE + 1) | ALMOST_THE_FORMAT)
@example(b"")
@example(ID.encode())
def test_any_bytes_are_a_reservation_exactly_when_they_have_the_format(data: bytes):
    parsed = parse_reservation(data)
    assert isinstance(parsed, Reservation) == is_exactly_the_format(data)
    assert (parsed is EMPTY) == (not data.replace(b"\0", b" ").strip())
    if isinstance(parsed, Reservation):
        assert parsed.container_id.encode() in data


@given(HEXADECIMAL, st.none() | IFNAMES)
def test_what_is_rendered_reads_as_the_same(container_id: str, ifname: str | None):
    reservation = Reservation(container_id, ifname)
    assert parse_reservation(render_reservation(*reservation)) == reservation


@given(HEXADECIMAL, st.none() | IFNAMES, st.text(SPACE, max_size=4), st.text(SPACE, max_size=4))
def test_what_is_read_renders_without_the_white_space_around_it(container_id: str, ifname: str | None, before: str, after: str):
    rendered = render_reservation(container_id, ifname)
    parsed = parse_reservation(before.encode() + rendered + after.encode())
    assert isinstance(parsed, Reservation)
    assert render_reservation(*parsed) == rendered
    assert parsed.fills(before.encode() + rendered + after.encode()) == (not before and not after)


def test_the_longest_reservation_is_far_below_the_limit():
    assert len(render_reservation(ID, "x" * 15)) < MAX_SIZE == 512
