#!/usr/bin/env python3
"""Trains the networks of sample_models/ on Fashion-MNIST and writes all that the folder holds.

Needs `pip install 'qtool[train]'` and the four .gz files of Fashion-MNIST (Debian's package
dataset-fashion-mnist has them): scripts/train_samples.py --data /usr/share/datasets/fashion-mnist
Every random choice comes from --seed; the same machine and torch release give the same networks.
"""

from __future__ import annotations

import argparse
import gzip
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

MEAN, STD = 0.286, 0.353  # of the training pixels, in 0..1; preprocess.toml says the same
N_TEST, N_CALIBRATION = 4000, 500


def stack(**layers: nn.Module) -> nn.Sequential:
    """Return the layers one after the other; their names become those of the weights."""
    return nn.Sequential(OrderedDict(layers))


def conv(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)


class Residual(nn.Module):
    """relu(x + bn(conv(relu(bn(conv(x)))))), the shortcut a 1x1 convolution where shapes differ."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(c_in, c_out, 3, stride)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = conv(c_out, c_out, 3)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut = stack(conv=conv(c_in, c_out, 1, stride), bn=nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def separable(c_in: int, c_out: int, stride: int) -> nn.Sequential:
    """Return a depthwise 3x3 and a pointwise convolution, each with BatchNorm and ReLU6."""
    return stack(
        depthwise=conv(c_in, c_in, 3, stride, groups=c_in),
        bn1=nn.BatchNorm2d(c_in),
        relu1=nn.ReLU6(),
        pointwise=conv(c_in, c_out, 1),
        bn2=nn.BatchNorm2d(c_out),
        relu2=nn.ReLU6(),
    )


def head(c_in: int) -> nn.Sequential:
    return stack(
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        dropout=nn.Dropout(0.1),
        linear=nn.Linear(c_in, 10),
    )


def resnet() -> nn.Module:
    return stack(
        stem=stack(conv=conv(1, 24, 3, 2), bn=nn.BatchNorm2d(24), relu=nn.ReLU()),
        block1=Residual(24, 24, 1),
        block2=Residual(24, 56, 2),
        block3=Residual(56, 56, 1),
        head=head(56),
    )


def dscnn() -> nn.Module:
    return stack(
        stem=stack(conv=conv(1, 32, 3, 2), bn=nn.BatchNorm2d(32), relu=nn.ReLU6()),
        block1=separable(32, 64, 1),
        block2=separable(64, 96, 2),
        block3=separable(96, 96, 1),
        block4=separable(96, 128, 2),
        block5=separable(128, 128, 1),
        head=head(128),
    )


def mlp() -> nn.Module:
    return stack(
        flatten=nn.Flatten(),
        linear1=nn.Linear(784, 256),
        relu1=nn.ReLU(),
        dropout1=nn.Dropout(0.2),
        linear2=nn.Linear(256, 128),
        relu2=nn.ReLU(),
        dropout2=nn.Dropout(0.2),
        linear3=nn.Linear(128, 10),
    )


NETWORKS = {  # name: (make, epochs, whether to shift and mirror the images)
    "resnet": (resnet, 16, True),
    "dscnn": (dscnn, 20, True),
    "mlp": (mlp, 20, False),
}


def read_idx(path: Path) -> np.ndarray:
    """Return the uint8 array of a gzipped IDX file: 2 zero bytes, type, rank, dims, values."""
    raw = gzip.decompress(path.read_bytes())
    dims = np.frombuffer(raw, ">u4", raw[3], 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(dims)


def load(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the images (n, 1, 28, 28) and labels (n,) of "train" or "t10k", uint8."""
    images = read_idx(folder / f"{part}-images-idx3-ubyte.gz")
    return images[:, None], read_idx(folder / f"{part}-labels-idx1-ubyte.gz")


def normalize(images: np.ndarray) -> Tensor:
    return torch.from_numpy((images.astype(np.float32) / 255 - MEAN) / STD)


def integers(labels: np.ndarray) -> Tensor:
    return torch.tensor(labels, dtype=torch.long)


def augment(batch: Tensor) -> Tensor:
    """Return the images shifted by up to 2 pixels, all alike, and half of them mirrored."""
    top, left = torch.randint(5, (2,)).tolist()
    padded = functional.pad(batch, (2, 2, 2, 2), value=-MEAN / STD)
    shifted = padded[:, :, top : top + 28, left : left + 28]
    mirrored = torch.rand(len(batch), 1, 1, 1) < 0.5
    return torch.where(mirrored, shifted.flip(3), shifted)


def train(
    network: nn.Module, images: Tensor, labels: Tensor, epochs: int, *, augmented: bool
) -> None:
    size = 128
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 4e-3, total_steps=epochs * -(-len(images) // size)
    )
    network.train().to(memory_format=torch.channels_last)
    for epoch in range(epochs):
        total = 0.0
        for chosen in torch.randperm(len(images)).split(size):
            x = augment(images[chosen]) if augmented else images[chosen]
            scores = network(x.contiguous(memory_format=torch.channels_last))
            loss = functional.cross_entropy(scores, labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        print(f"  epoch {epoch + 1}/{epochs}: loss {total / len(images):.4f}", flush=True)


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the percentage of images whose largest output is the label's."""
    scores = torch.cat([network.eval()(x) for x in images.split(500)])
    return 100 * float((scores.argmax(1) == labels).double().mean())


def export(network: nn.Module, path: Path, *, training: bool) -> onnx.ModelProto:
    """Write and return the ONNX graph, in the form that training or that inference needs.

    The training form keeps BatchNormalization and Dropout in training mode and every weight a
    graph input with an initializer. The exporter runs a training step, which moves the
    BatchNorm statistics, so the weights are put back as they were.
    """
    mode = torch.onnx.TrainingMode.TRAINING if training else torch.onnx.TrainingMode.EVAL
    weights = {k: v.detach().clone().contiguous() for k, v in network.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.train(training),
            (torch.zeros(2, 1, 28, 28),),
            path,
            dynamo=False,
            training=mode,
            do_constant_folding=not training,
            keep_initializers_as_inputs=training,
            opset_version=17,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
        )
    network.load_state_dict(weights)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name].numpy(), tensor.name))
    onnx.checker.check_model(model, full_check=not training)
    onnx.save(model, path)
    return model


def split_weights(model: onnx.ModelProto, graph_path: Path, weights_path: Path) -> None:
    """Write a training-form model as a graph without weights and a checkpoint that holds them."""
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    np.savez(weights_path, **weights)
    del model.graph.initializer[:]
    onnx.save(model, graph_path)


def write_samples(folder: Path, data: Path, seed: int) -> None:
    """Write the first N_TEST test images, and N_CALIBRATION training images, as .npz."""
    images, labels = load(data, "t10k")
    np.savez_compressed(folder / "test.npz", x=images[:N_TEST], y=labels[:N_TEST].astype(np.int64))
    images, _ = load(data, "train")
    chosen = np.random.default_rng(seed).choice(len(images), N_CALIBRATION, replace=False)
    np.savez_compressed(folder / "calibration.npz", x=images[np.sort(chosen)])


def make(name: str, data: Path, output: Path) -> None:
    """Train one network and write its files."""
    network_of, epochs, augmented = NETWORKS[name]
    images, labels = load(data, "train")
    test_images, test_labels = load(data, "t10k")
    network = network_of()
    n_weights = sum(p.numel() for p in network.parameters())
    print(f"{name}: {n_weights} parameters, {epochs} epochs", flush=True)
    train(network, normalize(images), integers(labels), epochs, augmented=augmented)
    found = accuracy(network, normalize(test_images), integers(test_labels))
    print(f"{name}: {found:.2f} % of the {len(test_labels)} test images", flush=True)
    network.to(memory_format=torch.contiguous_format)
    export(network, output / f"{name}.onnx", training=False)
    trained = export(network, output / f"{name}.train.onnx", training=True)
    if name == "mlp":
        split_weights(trained, output / "mlp.train.onnx", output / "mlp.weights.npz")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of Fashion-MNIST's .gz")
    parser.add_argument("--output", type=Path, default=Path("sample_models"))
    parser.add_argument("--network", choices=NETWORKS, action="append", help="repeatable; all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.output.mkdir(exist_ok=True)
    write_samples(options.output, options.data, options.seed)
    for name in options.network or NETWORKS:
        torch.manual_seed(options.seed)
        make(name, options.data, options.output)


if __name__ == "__main__":
    main()
