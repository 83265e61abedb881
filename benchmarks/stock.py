"""The baseline: training on MiniPlaces as the stock homework scaffold does.

NumPy and OpenCV transforms of one image at a time in DataLoader workers, a random interpolation at each resize; the
network in fp32 and the default memory format.
"""

import math
import random
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

INTERPOLATIONS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA)
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    return cv2.resize(image, (width, height), interpolation=random.choice(INTERPOLATIONS))


def scale(image: np.ndarray, size: int) -> np.ndarray:
    height, width = image.shape[:2]
    factor = size / min(height, width)
    return resize(image, round(width * factor), round(height * factor))


def color(image: np.ndarray, limit: float) -> np.ndarray:
    gains = np.array([1 + random.uniform(-limit, limit) for _ in range(3)], np.float32)
    return np.clip(image.astype(np.float32) * gains, 0, 255).astype(np.uint8)


def rotate(image: np.ndarray, limit: float) -> np.ndarray:
    degrees = random.uniform(-limit, limit)
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    turned = cv2.warpAffine(image, matrix, (width, height), flags=random.choice(INTERPOLATIONS[:3]))
    sine, cosine = abs(math.sin(math.radians(degrees))), abs(math.cos(math.radians(degrees)))
    inner = min(height, width) / (sine + cosine)  # of a square image
    top, left = int((height - inner) / 2) + 1, int((width - inner) / 2) + 1
    return np.ascontiguousarray(turned[top : height - top, left : width - left])


def sized_crop(image: np.ndarray, size: int) -> np.ndarray:
    height, width = image.shape[:2]
    for _ in range(10):
        area = random.uniform(0.25, 1.0) * height * width
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if w <= width and h <= height:
            top, left = random.randint(0, height - h), random.randint(0, width - w)
            return resize(np.ascontiguousarray(image[top : top + h, left : left + w]), size, size)
    return resize(image, size, size)


def to_input(image: np.ndarray) -> torch.Tensor:
    normalised = (image.astype(np.float32) / 255 - MEAN) / STD
    return torch.from_numpy(np.ascontiguousarray(normalised.transpose(2, 0, 1)))


def training_image(image: np.ndarray) -> torch.Tensor:
    image = scale(image, 144)
    if random.random() < 0.5:
        image = np.ascontiguousarray(image[:, ::-1])
    return to_input(sized_crop(rotate(color(image, 0.15), 15), 128))


class StockDataset(Dataset):
    """Decodes and augments at each access. `samples` are (path, label)."""

    def __init__(self, samples: list[tuple[Path, int]]):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path, label = self.samples[index]
        return training_image(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)), label


def stock_loader(samples: list[tuple[Path, int]], batch_size: int, workers: int) -> DataLoader:
    return DataLoader(StockDataset(samples), batch_size, shuffle=True, num_workers=workers, drop_last=True,
                      pin_memory=torch.cuda.is_available())


def stock_epoch(model: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer, device: str,
                scheduler=None) -> int:
    """Train one epoch. Returns the number of images."""
    model.train()
    images = 0
    for batch, labels in loader:
        batch, labels = batch.to(device), labels.to(device)
        loss = nn.functional.cross_entropy(model(batch), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        loss.item()  # as for printing
        images += len(batch)
    return images
