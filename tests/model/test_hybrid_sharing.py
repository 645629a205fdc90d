"""A hybrid that transformers has built is cut with the prices of its own recurrent layers."""

from ropewalk import parallelize
from ropewalk.partition.recurrent_cost import RecurrentStates
from tiny_hybrid import make_hybrid


def test_the_model_tells_the_price_list_its_states() -> None:
    price = parallelize(make_hybrid()).sharing.price.recurrent
    assert price is not None
    assert price.layers == RecurrentStates("gated_delta", 2, 8, 8, 3.0, channels=32, taps=4)
