"""A clean log gives no warning whatever its size; findings do not depend on the order or the names of users and items."""

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rayworks.core import seeds
from rayworks.systems.recommendation.logs.events import ACCEPTED, EventLog, Windows
from rayworks.systems.recommendation.measures.audit_baselines import fingerprints
from rayworks.systems.recommendation.measures.audits import audit
from tests.small_events import clean_log


@st.composite
def logs(draw: st.DrawFn) -> EventLog:
    return clean_log(
        users=draw(st.integers(40, 300)),
        steps=draw(st.integers(8, 25)),
        catalogue=draw(st.integers(4, 15)),
        seed=draw(st.integers(0, 2**31)),
    )


@settings(max_examples=60, deadline=None)
@given(logs(), st.integers(1, 3), st.integers(0, 3), st.integers(0, 5))
def test_clean_logs_give_no_warning(log: EventLog, test: int, valid: int, seed: int) -> None:
    found = audit(log, Windows(test, valid), seed)
    assert found.warnings == 0, [finding for finding in found.findings if finding.severity == "warning"]
    assert set(found.baselines) == {"always accept", "per-step prior", "template lookup", "item rate", "user and item"}


@settings(max_examples=25, deadline=None)
@given(logs(), st.integers(0, 2**31))
def test_findings_do_not_depend_on_names(log: EventLog, seed: int) -> None:
    draw = seeds.stream(seed, "names")
    users, items = draw.permutation(len(log.users)), draw.permutation(len(log.items))
    order = np.argsort(users[log.user], kind="stable")
    renamed = dataclasses.replace(log.keep(order), user=users[log.user][order], item=items[log.item][order])
    windows = Windows(2, 2)
    for one, two in zip(audit(log, windows, 0).findings, audit(renamed, windows, 1).findings, strict=True):
        assert (one.name, one.severity) == (two.name, two.severity)
        np.testing.assert_allclose(float(one.value or 0), float(two.value or 0), rtol=1e-9, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 2**31))
def test_fingerprints_are_equal_exactly_for_equal_rows(users: int, steps: int, seed: int) -> None:
    log = clean_log(users=users, steps=steps, catalogue=3, seed=seed)
    accepted = log.kind == ACCEPTED
    found = fingerprints(log, log.recommended, accepted + 1, log.step, seed)
    rows = accepted[log.recommended].reshape(users, steps)
    same = (rows[:, None] == rows[None]).all(2)
    np.testing.assert_array_equal(found[:, None] == found[None], same)
