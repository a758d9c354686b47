"""Five thousand generated bad calls of all that is public: each works or is refused by a sentence that names an argument, made in this package and not deep inside PyTorch.

A call that works is taken, and one or two of its arguments are replaced by anything at all."""

import collections
import copy
import os
import random
import re
import resource
import signal
import traceback
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from tiny import write_tiny_data
from torch import Tensor, nn
from torch.distributions import MultivariateNormal
from torch.utils.data import TensorDataset

import vae_tutorial
from vae_tutorial import (
    _mnist,
    annealing,
    checkpoints,
    data,
    distributions,
    evaluation,
    fast,
    files,
    importance,
    kernels,
    likelihood,
    linear_gaussian,
    networks,
    objectives,
    own_images,
    plots,
    processes,
    recipes,
    stored,
    training,
    vae,
    widgets,
)
from vae_tutorial.variants import (
    bounds,
    conditional,
    convolutional,
    disentanglement,
    flows,
    hierarchy,
    latent_diffusion,
    reductions,
)
from vae_tutorial.variants import priors as learned
from vae_tutorial.variants import text
from vae_tutorial.variants import vector_quantization as quantized

CALLS = 5_000
SECONDS, BYTES = 10, 2**31  # that no call may exceed
DOCUMENTED = (TypeError, ValueError, OSError, FloatingPointError)
PACKAGE = str(Path(vae_tutorial.__file__).parent)
IMAGES = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
MODEL = vae.mlp_vae((1, 4, 4), hidden=(3,))
STATE = copy.deepcopy(MODEL.state_dict())
CONVOLUTIONAL = vae.conv_vae((1, 4, 4), hidden=(3,))
QUANTIZED = quantized.vq_vae((1, 4, 4), 3, 2, (3,), 8, 1)
LAYERED = hierarchy.hierarchical_vae((1, 4, 4), (1, 1), (3, 3))
FACTORS = torch.arange(16).reshape(8, 2) % 3
TOLD = conditional.conditional_vae((1, 4, 4), 2, (3,), 4)
LINE = linear_gaussian.LinearGaussian(torch.rand(4, 2), torch.rand(4), 0.3)
NORMAL = distributions.DiagonalGaussian(torch.zeros(8, 2), torch.zeros(8, 2))
TERMS = {"elbo": -1.0, "reconstruction": -1.0, "kl": 0.0}
HISTORY = [{"epoch": 1, "step": 1, "split": "train", **TERMS}]
LAYERS = flows.flow_layers("coupling", 2, 2, 3)
FLOW = flows.FlowDistribution(NORMAL, LAYERS)


def anything():
    "What callers pass by mistake, and what no one would."
    numbers = [0, 1, -1, 2, 3, True, False, 0.5, -0.5, 1e300, 2.0, 2**31, 2**63]
    numbers += [10**30, -(10**30), 10**5000, float("nan"), float("inf"), 1j]
    numbers += [np.int64(2), np.float32(0.5), np.float64("nan"), np.bool_(True)]
    texts = ["", "2", "a\0b", "\x1b[2J", "~no_such_user/x", "x" * 5000, b"path", "/"]
    texts += ["\ud800", "nan", Path("nowhere"), os.fsdecode(b"caf\xe9")]
    many = [(), [], {}, set(), [None], ["a"], (1, 2), (0, -1), [10**30], (2.5, 1)]
    many += [{"a": 1}, range(3), (i for i in range(3)), [[3]], (True, 1), ("2", 1)]
    odd = [None, object(), len, Tensor, vae.VAE, nn.Linear(2, 2), lambda *a: None]
    odd += [np.zeros((8, 1, 4, 4)), np.zeros(3), np.array("a"), torch.float32, ...]
    odd += [TensorDataset(torch.rand(4, 2)), torch.Generator(), torch.Size([2])]
    return numbers + texts + many + odd + tensors()


def tensors():
    shapes = [(), (0,), (3,), (8, 2), (0, 2), (8, 0), (8, 16), (8, 1, 4, 4)]
    shapes += [(0, 1, 4, 4), (8, 4, 4), (8, 3, 4, 4), (1, 2, 3, 4, 5)]
    return [torch.full(shape, 0.5) for shape in shapes]


def damaged(value):
    "The same tensor, or model, in a state that it should not be in."
    if isinstance(value, nn.Module):
        return damaged_models(value)
    if not isinstance(value, Tensor):
        return []
    dtypes = [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8]
    dtypes += [torch.bool, torch.complex64]
    other = [value.to(dtype) for dtype in dtypes]
    for bad in (np.nan, np.inf, -1.0, 256.0, 1e38):
        other.append(torch.full_like(value.float(), bad))
    other += [
        value[:0],
        value[None],
        value.flatten(),
        value.float().mean(),
        value[..., None],
    ]
    other += [value.to_sparse(), value.to("meta"), value[:3], value[..., :1]]
    other += [
        torch.empty_strided(value.shape, [0] * value.ndim),
        value.detach().numpy(),
    ]
    other += [
        value.detach().tolist(),
        torch.cat([value, value]),
        value.detach().float().requires_grad_(),
    ]
    return other


def damaged_models(model):
    half, double, empty = (copy.deepcopy(model) for _ in range(3))
    bad = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in bad.parameters():
            parameter.fill_(np.nan)
    other = [half.half(), double.double(), empty.to("meta"), bad, type(model)]
    return [*other, nn.Linear(16, 4), nn.Sequential(), nn.Identity()]


def calls(folder):
    "All that is public, with arguments that work."
    saved = MODEL.save(folder / "model.safetensors")
    pair = {"mean": torch.zeros(8, 2), "log_variance": torch.zeros(8, 2)}
    priors = {"prior_mean": 0.0, "prior_log_variance": 0.0}
    row, z = torch.rand(8, 4), torch.zeros(8, 2)
    scored = {"model": MODEL, "images": IMAGES, "seed": 0}
    sampled = {"model": MODEL, "x": IMAGES, "num_samples": 2}
    walks = {"num_chains": 2, "num_temperatures": 3, "num_leapfrogs": 1}
    annealed = {"model": MODEL, "x": IMAGES, **walks}
    walks["model"] = MODEL
    sizes = {"image_shape": (1, 4, 4), "latent_dim": 2, "hidden": (3,)}
    gaussian = MultivariateNormal(z, torch.eye(2))
    layer = {"latent_dim": 2, "hidden": 3, "context_dim": 0}
    written = {"path": folder / "new.safetensors", "metadata": None}
    seeded = {"num_validation": 0, "seed": 0, "directory": folder}
    trained = {"model": MODEL, "images": IMAGES, "validation": IMAGES, "epochs": 1}
    trained |= {"batch_size": 8, "learning_rate": 1e-3, "pixels": "binary", "seed": 0}
    trained |= {"log_every": 100, "log": None, "callback": None, "labels": None}
    trained |= {"objective": with_labels, "checkpoint": None}
    reduced = {"reconstruction": "sum", "kl": "sum", "weight": 1.0}
    shown = {"images": IMAGES, "columns": 4, "title": "", "width": None, "axes": None}
    compared = {"originals": IMAGES, "reconstructions": IMAGES, "columns": 4}
    mapped = {"means": torch.rand(8, 2), "labels": torch.arange(8), "dims": (0, 1)}
    grid = {"num": 3, "latent_dim": 2, "dims": (0, 1)}
    pictures = folder / "pictures"
    own = {"size": None, "color": False, "skip_unreadable": False, "seed": 0}
    rows = [{"seed": i, "error": float(i)} for i in range(3)]
    dots = {"images": torch.rand(8, 1, 28, 28), "labels": torch.arange(8)}
    two = {"a": torch.rand(3, 4), "b": torch.rand(2, 4), "bias": torch.rand(2)}
    by_hand = {"model": MODEL, "x": IMAGES, "beta": 1.0}
    return {
        _mnist.data_directory: {"directory": folder},
        _mnist.install_mnist: {"directory": None},
        _mnist.read_dataset: {"name": "fashion-mnist", "directory": folder},
        data.binarize: {"images": IMAGES, "seed": 0},
        data.load_mnist: {"name": "fashion-mnist", **seeded},
        distributions.DiagonalGaussian: pair,
        NORMAL.log_prob: {"z": z},
        distributions.kl_per_dimension: {**pair, **priors},
        distributions.kl_divergence: {**pair, **priors},
        distributions.bernoulli: {"logits": IMAGES, "event_dims": 3},
        linear_gaussian.LinearGaussian: {
            "weight": torch.rand(4, 2),
            "bias": torch.rand(4),
            "noise_variance": 0.3,
        },
        LINE.encode: {"x": row},
        LINE.decode: {"z": z},
        linear_gaussian.expected_log_likelihood: {
            "model": LINE,
            "x": row,
            "q": gaussian,
        },
        linear_gaussian.fit_linear_gaussian: {"x": row, "latent_dim": 2},
        objectives.elbo: sampled,
        objectives.beta_elbo: {"beta": 1.0},
        objectives.weighted_elbo: {"model": MODEL, "x": IMAGES, "beta": 1.0},
        objectives.kl_term: {"q": NORMAL, "p": MODEL.prior, "z": z[None]},
        importance.log_importance_weights: sampled,
        importance.iwae_bound: sampled,
        training.annealed: {"num_steps": 10},
        annealing.annealed_weights: {**annealed, "exact": torch.zeros(8, 2)},
        annealing.sandwich: {"num_examples": 2, **walks},
        reductions.effective_beta: {
            "data_dim": 16,
            "latent_dim": 2,
            "likelihood": "gaussian",
            **reduced,
        },
        flows.Coupling: layer,
        flows.Autoregressive: layer,
        flows.flow_layers: {"flow": "coupling", "num_layers": 2, **layer},
        flows.FlowDistribution: {"base": NORMAL, "layers": LAYERS, "context": None},
        FLOW.log_prob: {"z": z},
        flows.FlowPosterior: {
            "network": nn.Linear(16, 4),
            "layers": LAYERS,
            "latent_dim": 2,
        },
        flows.flow_vae: {**sizes, "num_layers": 1, "flow_hidden": 3},
        latent_diffusion.VelocityField: {
            "latent_dim": 2,
            "hidden": 3,
            "num_classes": 4,
        },
        latent_diffusion.LatentFlow: {
            "latent_dim": 2,
            "hidden": 3,
            "num_classes": 4,
            "num_steps": 3,
        },
        latent_diffusion.latent_flow_vae: {
            **sizes,
            "flow_hidden": 3,
            "num_classes": 4,
        },
        text.load_names: {"num_validation": 10, "num_test": 10, "seed": 0},
        text.to_characters: {"words": ["ana", "bo"], "length": 4},
        text.to_words: {"x": text.to_characters(["ana", "bo"])},
        text.text_vae: {
            "length": 3,
            "num_characters": 3,
            "latent_dim": 2,
            "hidden": 3,
            "encoder_hidden": 3,
            "window": 1,
            "dropout": 0.0,
        },
        text.free_bits_elbo: {"model": MODEL, "x": IMAGES, "floor": 0.1, "beta": 1.0},
        text.WarmUp: {"num_steps": 4, "objective": objectives.weighted_elbo},
        bounds.sticking_the_landing: sampled,
        bounds.doubly_reparameterized: sampled,
        convolutional.ResidualBlock: {"channels": 2},
        convolutional.residual_vae: {**sizes, "num_blocks": 1},
        learned.LearnedMixture: {"latent_dim": 2, "num_components": 3},
        learned.VampPrior: {
            "encoder": MODEL.encoder,
            "image_shape": (1, 4, 4),
            "num_components": 3,
        },
        learned.FlowPrior: {"latent_dim": 2, "num_layers": 1, "hidden": 3},
        learned.prior_vae: {**sizes, "prior": "vamp", "num_components": 3},
        hierarchy.combine: {"prior": NORMAL, "evidence": NORMAL},
        hierarchy.hierarchical_vae: {
            "image_shape": (1, 4, 4),
            "latent_dims": (2, 1),
            "hidden": (3, 3),
            "inference": "ladder",
            "skips": True,
        },
        hierarchy.layered_elbo: {
            **sampled,
            "model": LAYERED,
            "weight": 1.0,
            "free_nats": 0.0,
        },
        TOLD.given: {"labels": torch.arange(8) % 4},
        conditional.conditional_elbo: {
            "model": TOLD,
            "x": IMAGES,
            "labels": torch.arange(8) % 4,
            "objective": objectives.elbo,
        },
        conditional.conditional_vae: {**sizes, "num_classes": 4, "network": "mlp"},
        conditional.log_p_by_label: {"model": TOLD, "x": IMAGES, "num_samples": 2},
        disentanglement.kl_parts: {"q": NORMAL, "z": z, "num_data": 100},
        disentanglement.correlation_elbo: {
            "model": MODEL,
            "x": IMAGES,
            "beta": 2.0,
            "num_data": 100,
        },
        disentanglement.tc_elbo: {"beta": 2.0, "num_data": 100},
        disentanglement.factor_information: {
            "codes": row,
            "factors": FACTORS,
            "num_bins": 20,
        },
        disentanglement.mutual_information_gap: {
            "information": torch.rand(2, 4),
            "factors": FACTORS,
        },
        quantized.nearest: {"z": z, "codebook": torch.rand(5, 2)},
        quantized.perplexity: {"codes": torch.tensor([0, 1, 1]), "num_codes": 3},
        quantized.quantized_objective: {
            "model": QUANTIZED,
            "x": IMAGES,
            "commitment": 1.0,
        },
        quantized.code_score: {
            "model": QUANTIZED,
            "x": IMAGES,
            "labels": torch.arange(8),
        },
        quantized.vq_vae: {
            "image_shape": (1, 4, 4),
            "num_codes": 3,
            "code_dim": 2,
            "hidden": (3,),
            "prior_width": 8,
            "prior_layers": 1,
            "restart": 0.1,
        },
        networks.mlp: {"sizes": [4, 3, 2]},
        networks.Gaussian: {"network": nn.Linear(4, 4)},
        networks.BernoulliPixels: {
            "network": nn.Linear(2, 16),
            "image_shape": (1, 4, 4),
        },
        networks.StandardNormal: {"latent_dim": 2},
        networks.conv_encoder: sizes,
        networks.conv_decoder: sizes,
        vae.mlp_vae: sizes,
        vae.conv_vae: sizes,
        vae.VAE: {
            "encoder": MODEL.encoder,
            "decoder": MODEL.decoder,
            "prior": MODEL.prior_part,
        },
        MODEL.encode: {"x": IMAGES},
        MODEL.decode: {"z": z},
        CONVOLUTIONAL.encode: {"x": IMAGES},
        CONVOLUTIONAL.decode: {"z": z},
        MODEL.elbo: {"x": IMAGES, "num_samples": 1},
        MODEL.sample: {"num_samples": 2, "seed": 0},
        MODEL.reconstruct: {"x": IMAGES},
        MODEL.save: {"path": folder / "new.safetensors"},
        vae.VAE.load: {"path": saved},
        recipes.load_model: {"path": saved},
        recipes.save_model: {"self": MODEL, "path": folder / "new.safetensors"},
        recipes.recipe: {"build": build_line},
        files.read_safetensors: {"path": saved},
        files.save_weights: {"module": MODEL, **written},
        files.write_safetensors: {"tensors": {"a": IMAGES}, **written},
        files.load_weights: {"module": MODEL, "path": saved},
        files.parse_json: {"text": "{}"},
        files.write_bytes: {"content": b"x", "path": folder / "new.bin"},
        checkpoints.Checkpoint: {"folder": folder, "resume": False},
        training.fit: trained,
        evaluation.active_units: {"means": torch.rand(8, 2), "threshold": 0.01},
        evaluation.evaluate: {
            **scored,
            "pixels": "binary",
            "num_samples": 1,
            "batch_size": 8,
        },
        likelihood.log_joint: {"model": MODEL, "x": IMAGES, "z": torch.zeros(3, 2)},
        likelihood.log_likelihood: {
            **scored,
            "method": "importance",
            "num_samples": 5,
            "pixels": "binary",
        },
        plots.show_images: shown,
        plots.show_reconstructions: {**compared, "title": "", "axes": None},
        plots.plot_losses: {"history": HISTORY, "figure": None},
        plots.plot_latent_map: {**mapped, "axes": None},
        plots.latent_grid: grid,
        plots.show_manifold: {"decode": decode_mean, **grid, "axes": None},
        plots.draw_parts: {
            "parts": [("data", 0.0, 0.0, "x"), ("encoder", 2.0, 0.0, "q")],
            "arrows": [(0, 1, "")],
            "axes": None,
        },
        own_images.read_image: {
            "path": pictures / "0.png",
            "size": (4, 4),
            "color": False,
        },
        own_images.load_own_images: {
            "path": pictures,
            "num_validation": 1,
            "memory": 2**30,
            **own,
        },
        own_images.ImageFiles: {
            "files": [pictures / "0.png"],
            "size": (4, 4),
            "color": False,
        },
        stored.stored: {"name": "results", "folder": folder},
        stored.store: {"name": "other", "key": "a", "rows": [1], "folder": folder},
        stored.one_per_seed: {"rows": rows, "measure": "error"},
        stored.mean_and_error: {"values": [1.0, 2.0]},
        stored.plus_minus: {"values": [1.0, 2.0], "digits": 2, "scale": 1},
        stored.agrees: {"text": "1.50 ± 0.50", "values": [1.0, 2.0]},
        widgets.Pipeline: {"vae": None, **dots},
        widgets.LatentExplorer: {"vae": None, **dots},
        widgets.DigitPad: {"vae": None, **dots},
        widgets.TrainingPanel: {
            "images": IMAGES,
            "validation": IMAGES,
            "log_every": 20,
        },
        fast.gradients_by_hand: by_hand,
        fast.works_by_hand: {"model": MODEL},
        fast.step_by_hand: {"model": MODEL, "beta": None},
        kernels.product: two,
        kernels.bernoulli_log_prob: {"logits": IMAGES, "x": IMAGES},
    }


def build_line(slope=1.0):
    return nn.Linear(1, 1)


def with_labels(model, x, labels=None):
    return objectives.elbo(model, x)


def decode_mean(z):
    return MODEL.decode(z).mean


WITHOUT = {  # what takes nothing a caller could get wrong, and why
    "use_style": "no arguments",
    "TrainingFilm": "no arguments",
    "BetaSlider": "no arguments",
    "KLSliders": "no arguments",
    "ReparameterizationSliders": "no arguments",
    "rank_and_world": "no arguments",
    **dict.fromkeys(
        "LabelledImages Splits ElboTerms WeightedTerms ImportanceBound Evaluation "
        "LogLikelihood Sandwich Table KLParts CorrelationTerms".split(),
        "a record: it holds what it is given",
    ),
    **dict.fromkeys(
        "gradient_step annealed_step batches train_epoch mean_terms training_state restore_training "
        "check_fit check_finite shared_step own_rows SharedCheckpoint AnyBatch "
        "Linear Adam join_processes agree checksum make_folder leftovers "
        "remove_leftovers FolderLock main".split(),
        "a part of the training: fit checks at its door",
    ),
    **dict.fromkeys(
        "Conditioner MaskedLinear FlowTransform mixture_of".split(),
        "a part of a flow or prior, which has looked at the sizes",
    ),
    **dict.fromkeys(
        "Chain LayeredPrior BottomUpEncoder Climb TopDownEncoder LadderEncoder "
        "LadderVAE Bottom".split(),
        "a part that hierarchical_vae builds",
    ),
    **dict.fromkeys(
        "divergence follow CarriedNoise known_label Matched flow_matching".split(),
        "a part of a latent flow, whose sizes and labels are looked at before",
    ),
    **dict.fromkeys(
        "WithLabel Given ConditionalVAE".split(),
        "parts of a conditional model, which has looked at sizes and labels",
    ),
    **dict.fromkeys(
        "one_dimension_each log_weights joint_information".split(),
        "a part of a measure, which has looked at what it is given",
    ),
    **dict.fromkeys(
        "straight_through Codebook OneCode Quantizer CodeDecoder Codes "
        "CausalTransformer CodePrior".split(),
        "a part that vq_vae builds",
    ),
    **dict.fromkeys(
        "Strings Recurrent Window StringDecoder".split(), "a part that text_vae builds"
    ),
    "grammar": "takes nothing",
    **dict.fromkeys(
        "QuantizedTerms CodeTerms Names".split(), "a record: it holds what it is given"
    ),
}
LEFT = {  # what may still raise an error of PyTorch's or Python's own, and why
    "product": "runs in each layer of each step, unchecked for speed",
    "bernoulli_log_prob": "likewise",
    "gradients_by_hand": "likewise: step_by_hand has looked at the model before",
    "conditional_elbo": "what goes wrong inside the objective that it is given",
}


# ---- the calls


class Hang(BaseException):
    "A call took too long."


def hang(*_):
    raise Hang


def complaint(function, arguments, replaced):
    "None for a call that works or is refused as it should be; else what was wrong."
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            function(**arguments)
    except DOCUMENTED as error:
        return fault(error, arguments, replaced)
    except (Hang, Exception) as error:
        return f"{type(error).__name__}: {said(error)!r} {where(error)}"
    finally:
        signal.alarm(0)
        plt.close("all")
        MODEL.load_state_dict(STATE)
        MODEL.float().requires_grad_()
    return None


def said(error):
    try:
        return str(error)[:150]
    except ValueError:
        return "a huge number"


def where(error):
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"({last.filename.split('site-packages/')[-1]}:{last.lineno})"


def fault(error, arguments, replaced):
    "What is wrong with a documented error."
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    text = str(error)
    words = ["self|VAE" if name == "self" else name for name in replaced]
    named = any(re.search(rf"\b({word})\b", text) for word in words)
    paths = [str(v)[:100] for v in arguments.values() if isinstance(v, (str, Path))]
    named |= isinstance(error, (OSError, ValueError)) and any(
        path in text or repr(path)[1:-1] in text for path in paths if path
    )
    if not last.startswith(PACKAGE):
        return f"{type(error).__name__} from {where(error)}: {text[:150]!r}"
    if not named:
        return f"{type(error).__name__} names no argument: {text[:150]!r}"
    return None


def draw(chance, arguments):
    "One or two arguments and what stands in their place."
    replaced = chance.sample(
        sorted(arguments), min(len(arguments), chance.choice([1, 1, 2]))
    )
    bad = {}
    for name in replaced:
        same = damaged(arguments[name])
        pool = same if same and chance.random() < 0.6 else anything()
        bad[name] = chance.choice(pool)
        if name in ("log", "callback", "objective") and isinstance(bad[name], type):
            bad[name] = None  # what a user's own function raises is the user's
    return replaced, {**arguments, **bad}


def prepare(folder):
    write_tiny_data(folder, 20, 20)
    (folder / "pictures").mkdir()
    for i in range(12):
        Image.new("L", (8, 8), i).save(folder / "pictures" / f"{i}.png")
    (folder / "results.json").write_text("{}")
    return calls(folder)


def short(value):
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)} {value.layout} {value.device}"
    try:
        return repr(value)[:60]
    except ValueError:
        return "a huge number"


def try_all(folder, number, seed=0):
    "Bad calls in turn through all functions; how many, and complaints by function."
    chance, table = random.Random(seed), prepare(folder)
    found, counts = collections.defaultdict(dict), collections.Counter()
    while counts["calls"] < number:
        for function, arguments in table.items():
            replaced, given = draw(chance, arguments)
            counts["calls"] += 1
            why = complaint(function, given, replaced)
            if why:
                counts["raw"] += 1
                how = {name: short(given[name]) for name in replaced}
                kind = re.sub("[^a-zA-Z ]|is .*|<.*", "", why)[:45]
                found[function.__qualname__][kind] = f"{how}: {why}"
    return counts, found


@pytest.fixture
def bounded():
    used = int(Path("/proc/self/statm").read_text().split()[0])
    used *= os.sysconf("SC_PAGESIZE")
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, limits[1]))
    before = signal.signal(signal.SIGALRM, hang)
    yield
    signal.signal(signal.SIGALRM, before)
    resource.setrlimit(resource.RLIMIT_AS, limits)


def test_bad_calls_work_or_are_refused_by_name(tmp_path, monkeypatch, bounded):
    monkeypatch.chdir(tmp_path)  # a file name may be any text
    counts, found = try_all(tmp_path, CALLS, int(os.environ.get("BAD_CALLS_SEED", 0)))
    print(dict(counts))
    found = {name: faults for name, faults in found.items() if name not in LEFT}
    listed = [f"{name}\n    {why}" for name in found for why in found[name].values()]
    assert not found, "\n".join([str(dict(counts)), *listed])


def test_calls_that_should_work_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for function, arguments in prepare(tmp_path).items():
        assert complaint(function, arguments, list(arguments)) is None, function


MODULES = [
    _mnist,
    annealing,
    checkpoints,
    data,
    distributions,
    evaluation,
    fast,
    files,
    importance,
]
MODULES += [hierarchy, quantized]
MODULES += [kernels, likelihood, linear_gaussian, networks, objectives, own_images]
MODULES += [plots, processes, recipes, reductions, stored, training, vae, widgets]
MODULES += [bounds, convolutional, flows, latent_diffusion, learned, text]


def test_all_that_is_public_is_called(tmp_path):
    called = {function.__qualname__.split(".")[-1] for function in prepare(tmp_path)}
    for module in MODULES:
        public = {n for n in module.__all__ if callable(getattr(module, n))}
        assert public <= called | WITHOUT.keys(), public - called - WITHOUT.keys()


# ---- sizes, and halves


TOO_LARGE = [
    (vae.mlp_vae, {"hidden": (1_000_000,)}),
    (vae.mlp_vae, {"hidden": (20_000, 20_000)}),
    (vae.mlp_vae, {"image_shape": (3, 10_000, 10_000)}),
    (vae.mlp_vae, {"latent_dim": 1_000_000, "hidden": (1000,)}),
    (vae.mlp_vae, {"hidden": (1,) * 101}),
    (vae.mlp_vae, {"hidden": (1,) * 10**6}),
    (vae.conv_vae, {"hidden": (9_000, 9_000)}),
    (vae.conv_vae, {"hidden": (1_000_000,)}),
    (vae.conv_vae, {"image_shape": (1, 2**14, 2**14), "hidden": (1, 1000)}),
    (vae.conv_vae, {"latent_dim": 1_000_000}),
    (convolutional.residual_vae, {"latent_dim": 10_000_000}),
    (convolutional.residual_vae, {"hidden": (9_000, 9_000)}),
    (convolutional.residual_vae, {"num_blocks": 1_000_000}),
    (convolutional.ResidualBlock, {"channels": 1_000_000}),
    (networks.mlp, {"sizes": [100_000, 100_000]}),
    (networks.StandardNormal, {"latent_dim": 10**9}),
]


@pytest.mark.parametrize("build, sizes", TOO_LARGE)
def test_sizes_are_refused_before_memory_is_taken(build, sizes, bounded):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="|".join(sizes)):
        build(**sizes)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 50_000, f"{grown} KiB"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "build", [vae.mlp_vae, vae.conv_vae, convolutional.residual_vae]
)
def test_models_of_other_precision_work_or_are_refused(build, dtype, tmp_path):
    "A loss of precision is announced by the dtype; nothing is NaN."
    model, x = build((1, 4, 4), hidden=(3,)).to(dtype), IMAGES.to(dtype)
    assert model.sample(3, seed=0).dtype == dtype
    assert model.reconstruct(x).isfinite().all()
    assert all(term.isfinite().all() for term in model.elbo(x, 2))
    assert np.isfinite(evaluation.evaluate(model, x).elbo)
    assert likelihood.log_likelihood(model, x, num_samples=5).values.isfinite().all()
    assert (
        likelihood.log_joint(model, x, torch.zeros(2, 2, dtype=dtype)).isfinite().all()
    )
    with pytest.raises(TypeError, match="x is torch.float32.*model"):
        model.reconstruct(IMAGES)
    likelihood.log_likelihood(model, x[:2], method="quadrature")
    history = training.fit(model, x, x, epochs=1, batch_size=4, log=None)
    assert np.isfinite(history[-1]["elbo"])
    again = vae.VAE.load(model.save(tmp_path / "model.safetensors"))
    torch.testing.assert_close(
        again.sample(3, 0).to(dtype), model.sample(3, 0), atol=0.05, rtol=0
    )


@pytest.mark.parametrize(
    "build", [vae.mlp_vae, vae.conv_vae, convolutional.residual_vae]
)
def test_data_is_brought_to_where_the_model_is(build):
    "Here to its dtype; a GPU is not asked for, and takes the same way."
    torch.manual_seed(0)
    model = build((1, 4, 4), hidden=(3,)).double()
    history = training.fit(model, IMAGES, IMAGES, epochs=1, log=None)
    assert np.isfinite(history[-1]["elbo"])
    assert np.isfinite(evaluation.evaluate(model, IMAGES).elbo)
    scores = likelihood.log_likelihood(model, IMAGES, num_samples=5)
    assert scores.values.isfinite().all()
    with pytest.raises(TypeError, match="x is torch.float32.*convert"):
        likelihood.log_joint(model, IMAGES, torch.zeros(2, 2))
