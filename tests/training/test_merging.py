from copy import deepcopy

import pytest
import torch

from sharpen.evaluation.encoders.load import load_encoder
from sharpen.training.merging import choose_base_weight, interpolate, weights_of


@pytest.fixture
def models():
    """A model, and weights of which each is 1 above the base's."""
    base = load_encoder("packaged:tiny-bert")
    tuned = deepcopy(base)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(1.0)
    return base, weights_of(tuned), weights_of(base)


def test_weights_are_mixed_with_those_of_the_base(models):
    model, tuned, base = models
    interpolate(model, tuned, base, 0.25)
    mixed = weights_of(model)
    assert all(torch.allclose(mixed[k], base[k] + 0.75, atol=1e-6) for k, _ in model.named_parameters())
    interpolate(model, tuned, base, 1.0)
    assert all(torch.equal(t, base[k]) for k, t in weights_of(model).items())
    with pytest.raises(ValueError, match="not the same weights"):
        interpolate(model, tuned, {}, 0.5)


def test_the_best_mixture_is_chosen_and_of_equal_ones_the_nearest_to_the_base(models):
    model, tuned, base = models
    name = next(name for name, _ in model.named_parameters())

    def base_weight_of(model) -> float:
        return 1 - float((model.state_dict()[name] - base[name]).mean())

    def score(model) -> float:  # 0.5 and 0.7 are equally good, the base is best
        return {0.0: 0.1, 0.5: 0.3, 0.7: 0.3, 1.0: 0.9}[round(base_weight_of(model), 3)]

    chosen, scores = choose_base_weight(model, tuned, base, [0.0, 0.5, 0.7], score)
    assert chosen == 0.7 and base_weight_of(model) == pytest.approx(0.7, abs=1e-5)
    assert scores == {0.0: 0.1, 0.5: 0.3, 0.7: 0.3, 1.0: 0.9}, "the base is scored beside them, and not chosen unasked"
    assert choose_base_weight(model, tuned, base, [0.0, 1.0], score)[0] == 1.0
    assert choose_base_weight(model, tuned, base, [0.3]) == (0.3, {})
    assert base_weight_of(model) == pytest.approx(0.3, abs=1e-5)


def test_a_mixture_is_written_into_the_model_that_is_there(models):
    model, tuned, base = models
    places = {name: weight.data_ptr() for name, weight in model.state_dict().items()}
    assert {weight.device.type for weight in (*tuned.values(), *base.values())} == {"cpu"}
    interpolate(model, tuned, base, 0.5)
    assert {name: weight.data_ptr() for name, weight in model.state_dict().items()} == places
