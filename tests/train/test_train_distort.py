"""Distortion of batches: every image is a moved or mirrored part of itself."""

from __future__ import annotations

import torch

from tvm_insta.train.data import distort


def test_shift_moves_whole_images_and_fills_with_black():
    pixels = torch.randint(1, 256, (64, 3, 8, 8), dtype=torch.uint8)
    placed = distort.placement(64, 2, True, torch.Generator().manual_seed(3))
    moved = distort.shift(pixels, 2, placed)
    assert set(placed[:, 0].tolist()) == set(placed[:, 1].tolist()) == {0, 1, 2, 3, 4}
    assert set(placed[:, 2].tolist()) == {0, 1}
    for image, result, (top, left, mirrored) in zip(pixels, moved, placed.tolist(), strict=True):
        big = torch.zeros(3, 12, 12, dtype=torch.uint8)
        big[:, 2:10, 2:10] = image
        window = big[:, top : top + 8, left : left + 8]
        assert torch.equal(result, window.flip(2) if mirrored else window)


def test_without_padding_and_flip_images_stay():
    pixels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    placed = distort.placement(4, 0, False, torch.Generator().manual_seed(0))
    assert torch.equal(distort.shift(pixels, 0, placed), pixels)


def test_a_window_of_the_whole_image_is_the_image():
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    whole = torch.tensor([[[1.0, 0, 0], [0, 1, 0]], [[-1, 0, 0], [0, 1, 0]]])
    cut = distort.cut_windows(pixels, whole, 8)
    torch.testing.assert_close(cut[0], pixels[0].float(), atol=1e-3, rtol=0)  # interpolation
    torch.testing.assert_close(cut[1], pixels[1].flip(2).float(), atol=1e-3, rtol=0)


def test_windows_stay_inside_and_cover_enough():
    drawn = distort.windows(2000, 0.08, True, torch.Generator().manual_seed(1))
    width, height = drawn[:, 0, 0].abs(), drawn[:, 1, 1]
    assert float((width + drawn[:, 0, 2].abs()).max()) <= 1 + 1e-6
    assert float((height + drawn[:, 1, 2].abs()).max()) <= 1 + 1e-6
    area = width * height
    assert float(area.min()) > 0.05 and 0.45 < float(area.mean()) < 0.6
    assert 0.4 < float((drawn[:, 0, 0] < 0).float().mean()) < 0.6


def test_normalised_inputs_are_channels_last():
    pixels = torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)
    inputs = distort.normalise(pixels, torch.tensor([0.0, 0.5, 1.0]), torch.tensor([1.0, 0.5, 2.0]))
    assert inputs[0, :, 0, 0].tolist() == [1.0, 1.0, 0.0]
    assert inputs.is_contiguous(memory_format=torch.channels_last)
