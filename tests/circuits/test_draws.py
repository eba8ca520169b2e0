"""Random choices are seeded, complete and the same for ever."""

from __future__ import annotations

from circuitfind.circuits.draws import Draw


def test_the_choices_of_a_seed_never_change() -> None:
    draw = Draw(3)
    assert [draw.coin() for _ in range(8)] == [True, False, True, False, False, True, True, False]
    assert [draw.below(5) for _ in range(5)] == [1, 1, 4, 2, 4]
    assert draw.order(5) == [2, 0, 3, 1, 4]


def test_some_are_all_where_there_are_no_more_and_stand_in_order() -> None:
    assert Draw(1).some(4, 4) == Draw(1).some(4, None) == [0, 1, 2, 3]
    drawn = Draw(1).some(100, 10)
    assert drawn == sorted(set(drawn)) and len(drawn) == 10 and drawn != Draw(2).some(100, 10)


def test_each_order_of_three_comes_about_as_often_as_any_other() -> None:
    draw = Draw(0)
    orders = [tuple(draw.order(3)) for _ in range(6000)]
    assert len(set(orders)) == 6
    assert all(880 < orders.count(order) < 1120 for order in set(orders))
