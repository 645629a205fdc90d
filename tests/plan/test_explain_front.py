"""What `check --explain` says where no settings fit."""

from ropewalk.plan.explain_plan import tabulate_front


def test_an_empty_front_has_no_bare_heading() -> None:
    assert list(tabulate_front([], priced=True)) == ["no settings fit: see the error above for what does"]
