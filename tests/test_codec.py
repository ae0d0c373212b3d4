"""Updates as integers, held against exact rational arithmetic."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from conftest import TINY
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedmed.aggregation.codec import GREATEST, SMALLEST, TAIL, Block, Codec, OffGrid
from fedmed.config import compose
from fedmed.core.errors import ConfigError
from fedmed.strategies.noisy_update import clipped_to

BITS = st.integers(2, 32)
LIMITS = st.one_of(
    st.floats(1e-9, 1e9), st.integers(-30, 30).map(lambda e: 2.0**e), st.just(10.0), st.just(0.3)
)


def grid(limit: float, bits: int, size: int, truncate: bool = False) -> Codec:
    return Codec((Block("w", (size,), limit),), bits, truncate)


def exact_step(limit: float, bits: int) -> Fraction:
    """Return the least power of two of which less than 2^(bits-1) steps go below the limit."""
    step = Fraction(2) ** 1200
    while step * 2 ** (bits - 1) >= 2 * Fraction(limit):
        step /= 2
    return step


@settings(max_examples=200, deadline=None)
@given(LIMITS, BITS)
@example(1.0, 17)
@example(SMALLEST, 32)
@example(GREATEST, 2)
def test_a_step_is_the_power_of_two_of_which_the_bits_hold_the_limit(
    limit: float, bits: int
) -> None:
    step = Block("w", (1,), limit).step(bits)
    assert Fraction(step) == exact_step(limit, bits)
    assert Fraction(limit) <= Fraction(step) * 2 ** (bits - 1) < 2 * Fraction(limit)


@settings(max_examples=300, deadline=None)
@given(st.data(), LIMITS, st.integers(2, 28), st.integers(1, 8))
def test_the_mean_is_right_to_half_a_step(data: Any, limit: float, bits: int, clients: int) -> None:
    """For any weights whose mean is 1, with what a client holds within its range."""
    counts = data.draw(st.lists(st.integers(1, 50), min_size=clients, max_size=clients))
    weights = [count / (sum(counts) / clients) for count in counts]
    codec = grid(limit, bits, 6)
    step = codec.blocks[0].step(bits)
    most = min(limit, codec.largest * step) * (1 - 1e-9)
    units = st.lists(st.floats(-1, 1), min_size=6, max_size=6)
    values = [np.array(data.draw(units)) * most / weight for weight in weights]
    vectors = [codec.encode({"w": v}, w) for v, w in zip(values, weights, strict=True)]
    total = [sum(int(vector[at]) for vector in vectors) for at in range(6)]
    for at in range(6):
        exact = sum(Fraction(v[at]) * Fraction(w) for v, w in zip(values, weights, strict=True))
        error = abs(total[at] * Fraction(step) - exact) / clients
        assert error <= Fraction(step) / 2 * (1 + Fraction(1, 10**12)) + Fraction(limit) / 10**15
    width = codec.width(clients) if clients * codec.largest < 2**31 else 32
    if width < 32:
        assert all(-(2 ** (width - 1)) <= x < 2 ** (width - 1) for x in total)
        words = np.array(total, np.int32)
        assert [Fraction(x) for x in codec.decode(words)["w"]] == [
            x * Fraction(step) for x in total
        ]


@settings(max_examples=300, deadline=None)
@given(
    LIMITS,
    st.integers(2, 32),
    st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=8),
)
@example(1.0, 17, [1.0, -0.0, 5e-324, 0.5])
@example(0.3, 17, [0.3, -0.3, math.nextafter(0.3, 1)])
@example(1.0, 17, [math.nan, math.inf, -math.inf, 1.7e308])
@example(2.0**-9, 4, [2.0**-9 * 15 / 16, math.nextafter(2.0**-9 * 15 / 16, 0)])
def test_what_lies_beyond_is_counted_to_the_value_and_refused(
    limit: float, bits: int, values: list[float]
) -> None:
    step, largest = exact_step(limit, bits), 2 ** (bits - 1) - 1

    def beyond(value: float) -> bool:
        if not math.isfinite(value) or abs(Fraction(value)) > Fraction(limit):
            return True
        return bool(abs(round(Fraction(value) / step)) > largest)  # half to even, as rint

    expected = sum(map(beyond, values))
    codec = grid(limit, bits, len(values))
    if not expected:
        found = codec.encode({"w": np.array(values)})
        assert found.tolist() == [round(Fraction(value) / step) for value in values]
        return
    with pytest.raises(OffGrid, match=f"^{expected:,} values of the update lie beyond") as error:
        codec.encode({"w": np.array(values)})
    assert error.value.saturated == expected
    assert "\n" not in str(error.value)


def test_all_blocks_are_counted_and_the_first_is_named() -> None:
    codec = Codec((Block("a", (2,), 1.0), Block("b", (), 4.0), Block("c", (3,), 1.0)), 17)
    values = {"a": np.zeros(2), "b": np.array(5.0), "c": np.array([2.0, 0.0, np.nan])}
    with pytest.raises(OffGrid, match=r"^3 values .*, the first in b: 5, of 4$"):
        codec.encode(values)


VECTORS = st.lists(
    st.one_of(st.floats(-1e6, 1e6), st.sampled_from([0.0, -0.0, 5e-324, 3.0, 4.0, 1e30])),
    min_size=1,
    max_size=12,
)


@settings(max_examples=400, deadline=None)
@given(VECTORS, LIMITS, st.integers(2, 30))
@example([1e9], 10.0, 17)
@example([1.0] * 12, 0.1, 20)
@example([3.0, 4.0], 5.0, 17)
@example([1e-300], 1.0, 17)
def test_no_neighbour_moves_the_sum_by_more_than_the_clipping_norm(
    update: list[float], norm: float, bits: int
) -> None:
    """In steps, exactly: whoever counts for nothing has moved it by an integer norm ≤ C."""
    clipped, _ = clipped_to({"w": np.array(update)}, norm)
    vector = grid(norm, bits, len(update), truncate=True).encode(clipped)
    square = sum(int(x) ** 2 for x in vector) * exact_step(norm, bits) ** 2
    own = sum(Fraction(x) ** 2 for x in clipped["w"])
    assert square <= own
    assert square <= Fraction(norm) ** 2


def test_the_sensitivity_is_reached_and_not_passed_by_what_is_at_the_edge() -> None:
    """Searched: directions of one, of equal and of random coordinates, on both sides of C."""
    rng = np.random.default_rng(0)
    for norm in (1.0, 10.0, 0.3, math.nextafter(10.0, 0), math.nextafter(8.0, 9), 1 / 3):
        step, largest = exact_step(norm, 17), Fraction(0)
        for size in (1, 2, 4, 9, 100):
            directions = [np.eye(size)[0], np.full(size, size**-0.5), rng.normal(size=size)]
            for direction in directions:
                unit = direction / np.linalg.norm(direction)
                for length in (norm, math.nextafter(norm, 0), math.nextafter(norm, 1e9), 7 * norm):
                    clipped, _ = clipped_to({"w": unit * length}, norm)
                    vector = grid(norm, 17, size, truncate=True).encode(clipped)
                    square = sum(int(x) ** 2 for x in vector) * step**2
                    assert square <= Fraction(norm) ** 2
                    largest = max(largest, square)
        assert largest > Fraction(norm) ** 2 * Fraction(9999, 10000)  # the search has come there


def test_to_the_nearest_a_norm_can_grow() -> None:
    """The control: what rounding towards zero is for."""
    codec = grid(1.0, 4, 100)
    vector = codec.encode({"w": np.full(100, 0.1)})
    assert np.linalg.norm(vector * codec.blocks[0].step(4)) > 1.2


@pytest.mark.parametrize("clients", [1, 3, 8, 1000])
def test_a_width_holds_the_worst_case_and_no_less_would(clients: int) -> None:
    for bits in range(2, 33):
        largest = 2 ** (bits - 1) - 1
        if clients * largest >= 2**31:
            with pytest.raises(ConfigError, match=r"^aggregation\.bits: .* take fewer$"):
                grid(1.0, bits, 1).width(clients)
            continue
        width = grid(1.0, bits, 1).width(clients)
        assert clients * largest <= 2 ** (width - 1) - 1 < 2 * clients * largest + 1


def test_a_width_holds_the_noise_of_all_clients() -> None:
    """Beyond it, and so beyond a word, a draw or a sum lies with a probability below 1e-15."""
    for deviation in (0.1, 1.0, 20.0):
        codec = Codec((Block("a", (3,), 1.0), Block("w", (1,), 1.0, deviation)), 17, True)
        for clients in (1, 8, 40):
            room = 2 ** (codec.width(clients) - 1) - 1
            noise = deviation / codec.blocks[0].step(17)
            of_one = (room - codec.largest) / noise  # a cipher's lane takes a client's own
            of_all = (room - clients * codec.largest) / (noise * math.sqrt(clients))
            assert min(of_one, of_all) >= TAIL
    assert 7e6 * math.erfc(TAIL / math.sqrt(2)) < 2e-16  # a value; seven million of them
    with pytest.raises(ConfigError, match=r"^aggregation\.bits: 30 for each of 2 clients and "):
        Codec((Block("w", (1,), 1.0, 0.5),), 30, True).width(2)


@pytest.mark.parametrize("limit", [0.0, -1.0, 1e-201, 5e-324, 1e201, math.inf, math.nan])
def test_limits_without_exact_steps_are_refused(limit: float) -> None:
    with pytest.raises(
        ConfigError, match=r"^aggregation: the range of w takes 1e-200 to 1e\+200, got "
    ):
        Block("w", (1,), limit)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("aggregation.bits=1", "aggregation.bits: "),
        ("aggregation.bits=33", "aggregation.bits: "),
        ("aggregation.range=.inf", "aggregation.range: "),
        ("aggregation.range=0", "aggregation.range: "),
        ("aggregation.statistics_range=.nan", "aggregation.statistics_range: "),
        ("aggregation.threshold=1", "aggregation.threshold: "),
    ],
)
def test_settings_without_a_grid_are_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}") as error:
        compose([*TINY, "aggregation=fixed", override])
    assert "\n" not in str(error.value)
