"""Seconds per epoch of training loops for the same VAE (784-128-64-2·latent, batches of
128, Adam, grey MNIST), and seconds of importance sampling (300 images, 1,000 samples
each) on the same weights, side by side.

Each is timed in a process of its own, in turns, several times, with one and two
threads; medians and ratios go to nbs/results/training_speed.json. `make bench` runs it
in an environment that has the peers (Pythae 0.1.2, JAX, Optax).
python bench/training.py [--rounds 5] [--threads 1 2] [--images 60000] [LOOP ...]"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

LATENT, BATCH = 2, 128
IMAGES, SAMPLES = 300, 1000  # of importance sampling
RESULTS = (
    Path(__file__).resolve().parent.parent / "nbs" / "results" / "training_speed.json"
)


def mnist(num):
    from vae_tutorial.data import load_mnist

    return load_mnist(num_validation=0).train.images[:num]


def timed(epoch, warm_up=lambda: None):
    "Seconds for one epoch, after a warm-up that costs the same loop a few steps."
    warm_up()
    start = time.perf_counter()
    epoch()
    return time.perf_counter() - start


def _as_pil_dataset(num):
    "MNIST as torchvision gives it: a PIL image per item, then ToTensor."
    import torchvision
    from vae_tutorial._mnist import data_directory, install_mnist

    install_mnist()
    dataset = torchvision.datasets.MNIST(
        data_directory(), train=True, transform=torchvision.transforms.ToTensor()
    )
    dataset.data, dataset.targets = dataset.data[:num], dataset.targets[:num]
    return dataset


def post(num):
    """The blog post's loop: DataLoader over PIL images, sigmoid and BCE summed over the
    batch, two parameter groups; its bugs fixed."""
    import torch
    from torch import nn, optim
    from torch.nn import functional as F

    encoder = nn.Sequential(
        nn.Linear(784, 128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 2 * LATENT),
    )
    decoder = nn.Sequential(
        nn.Linear(LATENT, 64),
        nn.ReLU(),
        nn.Linear(64, 128),
        nn.ReLU(),
        nn.Linear(128, 784),
        nn.Sigmoid(),
    )
    loader = torch.utils.data.DataLoader(
        _as_pil_dataset(num), batch_size=BATCH, shuffle=True
    )
    optimizer = optim.Adam(
        [{"params": encoder.parameters()}, {"params": decoder.parameters()}], lr=1e-3
    )

    def epoch(steps=None):
        for i, (images, _) in enumerate(loader):
            images = images.reshape(len(images), -1)
            mean, log_variance = encoder(images).chunk(2, dim=-1)
            z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
            loss = F.binary_cross_entropy(
                decoder(z), images, reduction="sum"
            ) - 0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if i % 100 == 0:
                loss.item()
            if i == steps:
                break

    return timed(epoch, lambda: epoch(20))


def _in_memory(num, from_logits, **adam):
    "The post's arithmetic on batches taken from one tensor instead of a DataLoader."
    import torch
    from torch import nn, optim
    from torch.nn import functional as F

    images = mnist(num).flatten(1)
    encoder = nn.Sequential(
        nn.Linear(784, 128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 2 * LATENT),
    )
    decoder = nn.Sequential(
        nn.Linear(LATENT, 64),
        nn.ReLU(),
        nn.Linear(64, 128),
        nn.ReLU(),
        nn.Linear(128, 784),
    )
    optimizer = optim.Adam(
        [*encoder.parameters(), *decoder.parameters()], lr=1e-3, **adam
    )
    cross_entropy = (
        F.binary_cross_entropy_with_logits
        if from_logits
        else lambda logits, x, reduction: F.binary_cross_entropy(
            torch.sigmoid(logits), x, reduction=reduction
        )
    )

    def epoch(steps=None):
        for i, index in enumerate(torch.randperm(num).split(BATCH)):
            x = images[index]
            mean, log_variance = encoder(x).chunk(2, dim=-1)
            z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
            loss = cross_entropy(decoder(z), x, reduction="sum") - 0.5 * torch.sum(
                1 + log_variance - mean.pow(2) - log_variance.exp()
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if i == steps:
                break

    return timed(epoch, lambda: epoch(20))


def in_memory(num):
    return _in_memory(num, from_logits=False)


def in_memory_logits(num):
    return _in_memory(num, from_logits=True)


def in_memory_logits_fused(num):
    return _in_memory(num, from_logits=True, fused=True)


def pytorch_examples(num):
    "The pattern of pytorch/examples/vae: as above, `.item()` at every step."
    import torch
    from torch import nn, optim
    from torch.nn import functional as F

    encoder = nn.Sequential(
        nn.Linear(784, 128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 2 * LATENT),
    )
    decoder = nn.Sequential(
        nn.Linear(LATENT, 64),
        nn.ReLU(),
        nn.Linear(64, 128),
        nn.ReLU(),
        nn.Linear(128, 784),
    )
    loader = torch.utils.data.DataLoader(
        _as_pil_dataset(num), batch_size=BATCH, shuffle=True
    )
    optimizer = optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)

    def epoch(steps=None):
        total = 0.0
        for i, (images, _) in enumerate(loader):
            optimizer.zero_grad()
            mean, log_variance = encoder(images.view(-1, 784)).chunk(2, dim=-1)
            z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
            loss = F.binary_cross_entropy(
                torch.sigmoid(decoder(z)), images.view(-1, 784), reduction="sum"
            ) - 0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
            loss.backward()
            total += loss.item()
            optimizer.step()
            if i == steps:
                break

    return timed(epoch, lambda: epoch(20))


def _pythae_model():
    "Our two networks as a model of Pythae."
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from torch import nn

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()
            )
            self.mean, self.log_variance = nn.Linear(64, LATENT), nn.Linear(64, LATENT)

        def forward(self, x):
            h = self.layers(x.reshape(len(x), -1))
            return ModelOutput(
                embedding=self.mean(h), log_covariance=self.log_variance(h)
            )

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(LATENT, 64),
                nn.ReLU(),
                nn.Linear(64, 128),
                nn.ReLU(),
                nn.Linear(128, 784),
                nn.Sigmoid(),
            )

        def forward(self, z):
            return ModelOutput(reconstruction=self.layers(z).reshape(-1, 1, 28, 28))

    config = VAEConfig(
        input_dim=(1, 28, 28), latent_dim=LATENT, reconstruction_loss="bce"
    )
    return VAE(config, Encoder(), Decoder())


def pythae(num):
    """Pythae 0.1.2: its own trainer; the time between the end of the first epoch and
    that of the second."""
    import tempfile
    import torch
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback

    class Clock(TrainingCallback):
        ends = []

        def on_epoch_end(self, *_, **__):
            self.ends.append(time.perf_counter())

    images, model = mnist(num), _pythae_model()
    with tempfile.TemporaryDirectory() as folder:
        settings = BaseTrainerConfig(
            output_dir=folder,
            learning_rate=1e-3,
            per_device_train_batch_size=BATCH,
            num_epochs=2,
            optimizer_cls="Adam",
            steps_saving=None,
            no_cuda=True,
        )
        BaseTrainer(
            model=model,
            train_dataset=BaseDataset(images, torch.zeros(len(images))),
            training_config=settings,
            callbacks=[Clock()],
        ).train()
    return Clock.ends[1] - Clock.ends[0]


def jax_scan(num):
    "JAX: one jitted function scans over all batches; compilation not counted."
    import jax
    import jax.numpy as jnp
    import optax

    images = jnp.asarray(mnist(num).reshape(num, 784).numpy())
    sizes, keys = (
        ([784, 128, 64, 2 * LATENT], [LATENT, 64, 128, 784]),
        jax.random.split(jax.random.PRNGKey(0), 6),
    )
    layers = [
        (
            jax.random.uniform(key, (a, b), minval=-(a**-0.5), maxval=a**-0.5),
            jnp.zeros(b),
        )
        for key, (a, b) in zip(keys, [pair for s in sizes for pair in zip(s, s[1:])])
    ]
    optimizer = optax.adam(1e-3)

    def run(layers, x):
        for w, b in layers[:-1]:
            x = jax.nn.relu(x @ w + b)
        return x @ layers[-1][0] + layers[-1][1]

    def loss(layers, x, key):
        mean, log_variance = jnp.split(run(layers[:3], x), 2, axis=-1)
        logits = run(
            layers[3:],
            mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape),
        )
        return (
            optax.sigmoid_binary_cross_entropy(logits, x).sum()
            - 0.5 * (1 + log_variance - mean**2 - jnp.exp(log_variance)).sum()
        ) / len(x)

    @jax.jit
    def epoch(layers, state, key):
        order_key, noise_key = jax.random.split(key)
        order = jax.random.permutation(order_key, num)[: num // BATCH * BATCH].reshape(
            -1, BATCH
        )

        def step(carry, inputs):
            layers, state = carry
            index, key = inputs
            value, gradient = jax.value_and_grad(loss)(layers, images[index], key)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(layers, updates), state), value

        return jax.lax.scan(
            step, (layers, state), (order, jax.random.split(noise_key, len(order)))
        )

    state = optimizer.init(layers)
    (layers, state), _ = jax.block_until_ready(
        epoch(layers, state, jax.random.PRNGKey(1))
    )
    return timed(
        lambda: jax.block_until_ready(epoch(layers, state, jax.random.PRNGKey(2)))
    )


def _ours(num, pixels, by_hand):
    import torch
    from vae_tutorial.fast import step_by_hand
    from vae_tutorial.training import fit
    from vae_tutorial.vae import mlp_vae

    images = mnist(num)
    torch.manual_seed(0)
    model, options, ends = mlp_vae(latent_dim=LATENT), {"log": None}, []
    if by_hand:
        options["step"] = step_by_hand(model)

    def note_the_end(record):
        if record["step"] == -(-num // BATCH):
            ends.append(time.perf_counter())

    fit(model, images[: 20 * BATCH], epochs=1, pixels=pixels, **options)
    fit(model, images, epochs=2, pixels=pixels, callback=note_the_end, **options)
    return ends[1] - ends[0]


def ours_readable(num):
    "`fit` as it is, by autograd."
    return _ours(num, "grey", by_hand=False)


def ours(num):
    "`fit` with the step by hand."
    return _ours(num, "grey", by_hand=True)


def ours_binary_readable(num):
    return _ours(num, "binary", by_hand=False)


def ours_binary(num):
    return _ours(num, "binary", by_hand=True)


def _libraries():
    """Ways to a product a @ b.T into a new or given tensor: what torch.mm uses (MKL
    mostly), and oneDNN where PyTorch has it."""
    import torch

    found = [lambda a, b, out: torch.mm(a, b.T, out=out)]
    onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if onednn is not None and torch.backends.mkldnn.is_available():
        found.append(lambda a, b, out: onednn(a, b, None, "none", [], ""))
    return found


def _fastest(libraries, a, b, out, times=200):
    "The library that multiplies these two fastest, by medians in turns."
    laps = {library: [] for library in libraries}
    for _ in range(times):
        for library in libraries:
            start = time.perf_counter()
            library(a, b, out)
            laps[library].append(time.perf_counter() - start)
    return min(libraries, key=lambda library: statistics.median(laps[library]))


def floor(num):
    """Only the matrix products of an epoch: forward, gradients by weights and by
    activations, each by the library that is fastest at its shape."""
    import torch

    sizes = [784, 128, 64, 2 * LATENT], [LATENT, 64, 128, 784]
    layers = [pair for stack in sizes for pair in zip(stack, stack[1:])]
    products, libraries = [], _libraries()

    def add(a, b):  # a @ b.T
        out = torch.empty(len(a), len(b))
        products.append((_fastest(libraries, a, b, out), a, b, out))

    for place, (inputs, outputs) in enumerate(layers):
        x, w = torch.randn(BATCH, inputs), torch.randn(outputs, inputs)
        y = torch.randn(BATCH, outputs)
        add(x, w)
        add(y.T, x.T)
        if place > 0:  # nothing asks for the gradient by the pixels
            add(y, w.T)

    def epoch(steps=None):
        for _ in range(steps or num // BATCH):
            for library, a, b, out in products:
                library(a, b, out)

    return timed(epoch, lambda: epoch(20))


# ---- importance sampling


def _same_weights():
    "Our model, and black-and-white images."
    import torch
    from vae_tutorial.data import binarize
    from vae_tutorial.vae import mlp_vae

    torch.manual_seed(0)
    model = mlp_vae(latent_dim=LATENT).requires_grad_(False)
    return model, binarize(mnist(IMAGES), seed=0)


def importance_ours(num):
    "`log_likelihood` by importance sampling."
    from vae_tutorial.likelihood import log_likelihood

    model, images = _same_weights()

    def score(images):
        log_likelihood(model, images, num_samples=SAMPLES)

    return timed(lambda: score(images[:num]), lambda: score(images[:5]))


def importance_pythae(num):
    "Pythae's `get_nll`, with all samples of an image in one batch."
    import torch

    model, images = _same_weights()
    theirs = _pythae_model().eval().requires_grad_(False)
    own = list(model.encoder.state_dict().values())
    half = [part for tensor in own[-2:] for part in tensor.split(LATENT)]
    weights = [*own[:-2], half[0], half[2], half[1], half[3]]
    for old, new in zip(theirs.encoder.parameters(), weights, strict=True):
        old.copy_(new)
    weights = model.decoder.state_dict().values()
    for old, new in zip(theirs.decoder.parameters(), weights, strict=True):
        old.copy_(new)
    q = theirs.encoder(images[:5])
    torch.testing.assert_close(q.embedding, model.encode(images[:5]).mean)
    torch.testing.assert_close(
        theirs.decoder(q.embedding)["reconstruction"], model.decode(q.embedding).mean
    )

    def score(images):
        theirs.get_nll(images, n_samples=SAMPLES, batch_size=SAMPLES)

    return timed(lambda: score(images[:num]), lambda: score(images[:5]))


def importance_decoder(num):
    "Only the decoder's own products, by the library that is fastest at each shape."
    import torch
    from vae_tutorial.kernels import Linear

    model, _ = _same_weights()
    layers = [layer for layer in model.decoder.modules() if isinstance(layer, Linear)]
    libraries, products = _libraries(), []
    rows = 2000  # two images' samples at a time, as `log_likelihood` takes them
    for layer in layers:
        a, b = torch.randn(rows, layer.in_features), layer.weight
        out = torch.empty(rows, layer.out_features)
        products.append((_fastest(libraries, a, b, out, times=30), a, b, out))

    def score(times):
        for _ in range(times):
            for library, a, b, out in products:
                library(a, b, out)

    return timed(lambda: score(num * SAMPLES // rows), lambda: score(3))


LIKELIHOODS = {
    loop.__name__: loop
    for loop in (importance_decoder, importance_ours, importance_pythae)
}
LOOPS = {
    loop.__name__: loop
    for loop in (
        floor,
        ours,
        ours_readable,
        ours_binary_readable,
        ours_binary,
        jax_scan,
        in_memory_logits_fused,
        in_memory_logits,
        in_memory,
        pythae,
        post,
        pytorch_examples,
    )
}


def flops_per_image():
    "Operations of the matrix products for one image, forward and backward."
    sizes = [784, 128, 64, 2 * LATENT], [LATENT, 64, 128, 784]
    weights = sum(a * b for s in sizes for a, b in zip(s, s[1:]))
    return 2 * (3 * weights - 784 * 128)


def busy(seconds=2.0):
    "Share of the CPU time that others used during a pause of ours."

    def times():
        return [
            int(field)
            for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:]
        ]

    before = times()
    time.sleep(seconds)
    spent = [after - first for after, first in zip(times(), before)]
    return 1 - (spent[3] + spent[4]) / sum(spent)


def measure(loop, threads, num):
    "Seconds of one loop in a process of its own."
    libraries = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = os.environ | {name: str(threads) for name in libraries}
    is_many = "true" if threads > 1 else "false"
    environment["XLA_FLAGS"] = (
        f"--xla_cpu_multi_thread_eigen={is_many} intra_op_parallelism_threads={threads}"
    )
    command = [sys.executable, __file__, "--one", loop, "--images", str(num)]
    if threads == 1 and hasattr(os, "sched_setaffinity"):
        command = ["taskset", "-c", "0", *command]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{loop}: {result.stderr[-2000:]}")
    return float(result.stdout.strip().splitlines()[-1])


def in_turns(loops, threads, num, rounds):
    "Seconds of each loop, by name, one round after the other."
    seconds = {loop: [] for loop in loops}
    for _ in range(rounds):
        for loop in loops:
            seconds[loop].append(measure(loop, threads, num))
    return seconds


def show(seconds, threads, ours, floor):
    "Print medians, against ours and as a share of the floor."
    medians = {loop: statistics.median(values) for loop, values in seconds.items()}
    print(f"\n{threads} threads               seconds   spread         x ours   floor")
    for loop, median in sorted(medians.items(), key=lambda item: item[1]):
        spread = f"{min(seconds[loop]):.2f}-{max(seconds[loop]):.2f}"
        line = f"{loop:22} {median:8.3f}   {spread}"
        if {ours, floor} <= medians.keys():
            line += f"   {median / medians[ours]:8.2f}   {medians[floor] / median:5.0%}"
        print(line)
    return medians


def processor():
    "The name of this machine's processor."
    info = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in info if "model name" in line]
    return next(iter(names), platform.processor())


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("loops", nargs="*", choices=[[], *LOOPS, *LIKELIHOODS])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--likelihood-images", type=int, default=IMAGES)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    options = arguments()
    if options.one:
        return print((LOOPS | LIKELIHOODS)[options.one](options.images))
    wanted, load = options.loops or [*LOOPS, *LIKELIHOODS], busy()
    quiet = "" if load < 0.1 else ": NOT QUIET, do not quote these figures"
    print(f"{processor()}, {os.cpu_count()} cores; others use {load:.0%}{quiet}")
    table = {
        "machine": processor(),
        "cores": os.cpu_count(),
        "load_of_others": round(load, 3),
        "rounds": options.rounds,
        "images": options.images,
        "batch_size": BATCH,
        "flops_per_image": flops_per_image(),
        "seconds": {},
        "likelihood": {
            "machine": processor(),
            "load_of_others": round(load, 3),
            "images": options.likelihood_images,
            "samples": SAMPLES,
        },
        "likelihood_seconds": {},
    }
    for threads in options.threads:
        loops = [loop for loop in wanted if loop in LOOPS]
        seconds = in_turns(loops, threads, options.images, options.rounds)
        table["seconds"][str(threads)] = seconds
        medians = show(seconds, threads, "ours", "floor")
        if "floor" in medians:
            work = options.images // BATCH * BATCH * flops_per_image()
            print(f"matrix products: {work / medians['floor'] / 1e9:.0f} GFLOP/s")
        if {"ours", "ours_readable"} <= medians.keys():
            ratio = medians["ours_readable"] / medians["ours"]
            print(f"fit by autograd takes {ratio:.2f} times the step by hand")
        loops = [loop for loop in wanted if loop in LIKELIHOODS]
        num = options.likelihood_images
        seconds = in_turns(loops, threads, num, options.rounds)
        table["likelihood_seconds"][str(threads)] = seconds
        show(seconds, threads, "importance_ours", "importance_decoder")
    is_whole = options.images == 60_000 and options.likelihood_images == IMAGES
    if not options.loops and is_whole:
        RESULTS.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
