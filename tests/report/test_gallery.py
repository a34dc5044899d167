import math

import torch
from PIL import Image

from nvsm_lightning.report.gallery import contact_sheet, worst_median_best


def test_worst_median_and_best_are_what_they_say():
    error = torch.tensor([0.3, math.nan, 0.1, 0.9, 0.5, 0.7])
    chosen = {name: indices.tolist() for name, indices in worst_median_best(error, 1).items()}
    assert chosen == {"worst": [3], "median": [4], "best": [2]}


def test_fewer_pictures_than_asked_for_are_all_shown():
    chosen = worst_median_best(torch.tensor([0.3, 0.1]), 12)
    assert all(sorted(indices.tolist()) == [0, 1] for indices in chosen.values())


def test_the_sheet_holds_every_picture_once():
    colours = ["red", "green", "blue", "yellow", "cyan"]
    pictures = [Image.new("RGB", (20, 10), colour) for colour in colours]
    sheet = contact_sheet(pictures, "title", columns=2)
    counts = {colour: count for count, colour in sheet.getcolors(100_000)}
    for picture in pictures:
        assert counts[picture.getpixel((0, 0))] == 200
