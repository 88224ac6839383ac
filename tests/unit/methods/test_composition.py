"""Refused pairs, put together by their reason."""

import itertools

from vitune.methods import all_methods, refusals

OURS = {name: m for name, m in all_methods().items() if m.__module__.startswith("vitune.methods.")}


def test_every_refused_pair_is_told_once_and_no_other():
    told = [frozenset((found.name, other)) for found in refusals(OURS) for other in found.others]
    expected = {
        frozenset((one, other))
        for one, other in itertools.combinations(OURS, 2)
        if other in OURS[one].conflicts or one in OURS[other].conflicts
    }
    assert len(told) == len(set(told))
    assert set(told) == expected
    assert len(expected) > len(OURS)


def test_the_reason_is_that_of_one_of_the_two():
    for found in refusals(OURS):
        for other in found.others:
            reasons = (OURS[other].conflicts.get(found.name), OURS[found.name].conflicts.get(other))
            assert found.reason in reasons


def test_only_the_given_methods_are_told_of():
    assert refusals({name: OURS[name] for name in ("lora", "ssf")}) == []
    (found,) = refusals({name: OURS[name] for name in ("vpt", "hst")})
    assert {found.name, *found.others} == {"vpt", "hst"}


def test_pairs_of_one_reason_are_put_together():
    found = {(one.name, one.others) for one in refusals(OURS)}
    assert ("hst", ("vpt", "e2vpt")) in found
    assert ("alast", ("vpt", "e2vpt")) in found
    assert len(found) < 30
