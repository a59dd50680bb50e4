"""Bits under a budget: the least error there is, and never a byte too much."""

from __future__ import annotations

from itertools import product
from math import exp, sin

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vlapack.errors import InputError
from vlapack.recipe.choice import Choice
from vlapack.tune.allocate import Option, Problem, allocate, cheapest, smallest

errors = st.floats(0, 1e3, allow_subnormal=False)
sizes = st.integers(1, 5000)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Up to six layers, of which one may have a single option, in groups that share bytes and sets that fold."""
    names = [f"layer{number}" for number in range(draw(st.integers(1, 6)))]
    options = {
        name: [Option(4, draw(sizes), draw(errors)), Option(8, draw(sizes), draw(errors)), Option(16, draw(sizes))]
        for name in names
    }
    if len(names) > 1 and draw(st.booleans()):
        options[names[-1]] = options[names[-1]][:1]
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(names) - 1)), max_size=2)))
    groups = [names[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(names)], strict=True)]
    shared = [(group, draw(st.integers(0, 3000))) for group in groups if group]
    folded = draw(
        st.lists(st.tuples(st.sets(st.sampled_from(names), min_size=1), st.integers(-1000, 1000)), max_size=3)
    )
    return Problem(options, shared, [(sorted(together), size) for together, size in folded], draw(sizes))


def every_assignment(problem: Problem) -> list[dict[str, int]]:
    choices = [[option.bits for option in options] for options in problem.options.values()]
    return [dict(zip(problem.options, bits, strict=True)) for bits in product(*choices)]


@settings(max_examples=40, deadline=None)
@given(problems(), st.floats(0, 1))
@example(Problem({"tied": [Option(4, 1, 1.0), Option(8, 1), Option(16, 2)]}, [(["tied"], 0)], fixed=1), 0.0)
def test_no_assignment_within_the_budget_has_less_error(problem: Problem, share: float) -> None:
    assignments = every_assignment(problem)
    least = min(map(problem.nbytes, assignments))
    assert problem.nbytes(smallest(problem)) == least
    most = problem.nbytes({name: options[-1].bits for name, options in problem.options.items()})
    budget = least + int(share * (most - least))
    if not least <= budget < most:
        with pytest.raises(InputError, match="impossible"):
            allocate(problem, budget)
        return
    found = allocate(problem, budget)
    assert problem.nbytes(found) <= budget
    within = [bits for bits in assignments if problem.nbytes(bits) <= budget]
    scale = max(option.error for options in problem.options.values() for option in options)
    assert problem.error(found) <= min(map(problem.error, within)) + 1e-5 * scale


@settings(max_examples=40, deadline=None)
@given(problems(), st.floats(0.01, 1))
def test_no_assignment_within_the_error_has_fewer_bytes(problem: Problem, share: float) -> None:
    assignments = every_assignment(problem)
    floor = min(map(problem.error, assignments))
    bound = floor + share * (max(map(problem.error, assignments)) - floor)
    if bound <= 0:
        return
    found = cheapest(problem, bound)
    assert problem.error(found) <= bound * (1 + 1e-5)
    assert problem.nbytes(found) <= min(problem.nbytes(bits) for bits in assignments if problem.error(bits) <= bound)


def test_a_group_pays_once_for_what_it_shares() -> None:
    options = [Option(4, 10, 1.0), Option(16, 100)]
    problem = Problem({"q": options, "k": options}, [(("q", "k"), 30)], fixed=5)
    assert problem.nbytes({"q": 4, "k": 4}) == 5 + 20 + 30
    assert problem.nbytes({"q": 4, "k": 16}) == 5 + 110 + 30
    assert problem.nbytes({"q": 16, "k": 16}) == 205
    assert set(allocate(problem, 145).values()) == {4, 16}
    assert set(allocate(problem, 144).values()) == {4}


def test_few_bits_that_cost_more_bytes_are_not_the_smallest() -> None:
    problem = Problem({"tiny": [Option(4, 10, 1.0), Option(8, 14, 0.1), Option(16, 12)]}, [(("tiny",), 1000)])
    assert smallest(problem) == {"tiny": 16}


@pytest.mark.parametrize("budget", [14, 205, 10**12])
def test_an_impossible_budget_names_the_smallest_and_the_largest(budget: int) -> None:
    problem = Problem({"layer": [Option(4, 10, 1.0), Option(16, 200)]}, fixed=5)
    with pytest.raises(InputError, match=r"15 bytes .* 205 "):
        allocate(problem, budget)


def test_full_size_is_solved_and_no_room_is_wasted() -> None:
    """456 layers whose errors span six decades, as π0.5's do; sizes up to 67 MB, budgets in GB."""
    options = {
        f"layer{n}": [
            Option(4, 17_000_003 * (n % 7 + 1) // 8, exp(7 * sin(n * n))),
            Option(8, 34_000_005 * (n % 7 + 1) // 8, exp(7 * sin(n * n) - 5)),
            Option(16, 68_000_000 * (n % 7 + 1) // 8),
        ]
        for n in range(456)
    }
    problem = Problem(options, [((f"layer{n}", f"layer{n + 1}"), 20_000) for n in range(0, 456, 2)], fixed=10**9)
    least = problem.nbytes(smallest(problem))
    for share in (1.0001, 1.1, 1.7):
        budget = int(least * share)
        assert 0.999 * budget < problem.nbytes(allocate(problem, budget)) <= budget


def test_layers_that_share_an_input_round_it_alike() -> None:
    narrow = Choice(8, act_bits=4)
    free = {
        "q": [Option(8, 10, 5.0), Option(narrow, 10, 2.0), Option(16, 100)],
        "k": [Option(8, 10, 1.0), Option(narrow, 10, 9.0), Option(16, 100)],
    }
    assert allocate(Problem(free), 20) == {"q": narrow, "k": 8}
    together = Problem(free, alike=[("q", "k")])
    assert allocate(together, 20) == {"q": 8, "k": 8}
    assert allocate(together, 110) == {"q": 16, "k": 8}  # what stays float agrees with everything
    assert together.error(cheapest(together, 5.0)) <= 5.0
