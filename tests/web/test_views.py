"""The places of a picture that the web page shows."""

import numpy as np

from web.views import most_difficult


def test_the_most_difficult_place() -> None:
    assignment = np.zeros((1000, 2000), np.uint8)
    assignment[700:900, 300:500] = 1
    place = most_difficult(assignment)
    rows, cols = place.window((1000, 2000))
    assert rows.start < 900 and rows.stop > 700 and cols.start < 500 and cols.stop > 300
