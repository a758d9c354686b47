"A data set that loads in a millisecond, for tests that start hundreds of trainings."

import struct

import torch


def write_tiny_data(folder, num_train=220, num_test=40):
    "Random images and labels in the files of Fashion-MNIST, for `--data fashion-mnist --data-dir FOLDER`. Returns the folder."
    generator = torch.Generator().manual_seed(0)
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, number in (("train", num_train), ("t10k", num_test)):
        images = torch.randint(
            256, (number, 28, 28), dtype=torch.uint8, generator=generator
        )
        labels = torch.arange(number, dtype=torch.uint8) % 10
        (raw / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">iiii", 2051, number, 28, 28)
            + bytes(images.flatten().tolist())
        )
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">ii", 2049, number) + bytes(labels.tolist())
        )
    return folder
