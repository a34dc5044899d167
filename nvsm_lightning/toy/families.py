"""The kinds of cars and the ranges of their measures: what :mod:`.cars` draws from."""

from dataclasses import dataclass

Range = tuple[float, float]


@dataclass(frozen=True)
class Family:
    """Ranges of the measures of one kind of car (fractions of its length; positions from the nose)."""

    cowl: Range  # foot of the windscreen
    roof_front: Range
    roof_back: Range
    screen_foot: Range  # foot of the rear screen
    height: Range
    belt: Range  # height of the lower edge of the windows, share of the car's height
    nose: Range  # height of the bonnet's front edge, share of the belt
    deck: Range  # height of the boot lid at the tail, share of the belt
    width: Range
    clearance: Range
    pillars: tuple[float, ...] = (0.40, 0.74)  # along the side windows
    rear_glass: float = 1.0  # chance that the windows behind the second pillar are glass
    bed: bool = False


# cowl, roof_front, roof_back, screen_foot, height, belt, nose, deck, width, clearance, ...
FAMILIES: dict[str, Family] = {
    "sedan": Family(
        (0.27, 0.33), (0.41, 0.47), (0.66, 0.74), (0.8, 0.87), (0.29, 0.34), (0.58, 0.64),
        (0.72, 0.86), (0.92, 1.06), (0.37, 0.44), (0.045, 0.065),
    ),
    "hatchback": Family(
        (0.24, 0.3), (0.37, 0.43), (0.82, 0.9), (0.95, 0.985), (0.34, 0.41), (0.56, 0.63),
        (0.72, 0.86), (0.95, 1.0), (0.41, 0.48), (0.045, 0.07), (0.42, 0.8),
    ),
    "estate": Family(
        (0.25, 0.31), (0.38, 0.44), (0.87, 0.94), (0.95, 0.985), (0.29, 0.34), (0.56, 0.63),
        (0.72, 0.86), (0.95, 1.0), (0.36, 0.42), (0.045, 0.065), (0.36, 0.66),
    ),
    "van": Family(
        (0.13, 0.21), (0.24, 0.33), (0.93, 0.97), (0.975, 0.99), (0.38, 0.47), (0.48, 0.56),
        (0.74, 0.9), (0.97, 1.0), (0.38, 0.45), (0.05, 0.07), (0.34, 0.64), 0.4,
    ),
    "pickup": Family(
        (0.25, 0.31), (0.36, 0.41), (0.55, 0.66), (0.6, 0.7), (0.32, 0.38), (0.55, 0.62),
        (0.84, 0.95), (0.96, 1.02), (0.35, 0.41), (0.07, 0.1), (0.5, 0.97), 1.0, True,
    ),
    "suv": Family(
        (0.24, 0.3), (0.35, 0.41), (0.86, 0.93), (0.95, 0.985), (0.37, 0.44), (0.57, 0.64),
        (0.84, 0.96), (0.96, 1.0), (0.4, 0.47), (0.075, 0.1), (0.38, 0.72),
    ),
    "coupe": Family(
        (0.32, 0.38), (0.46, 0.52), (0.63, 0.71), (0.86, 0.95), (0.26, 0.31), (0.6, 0.67),
        (0.62, 0.78), (0.88, 1.02), (0.4, 0.46), (0.035, 0.055), (0.6, 0.97),
    ),
    "minicar": Family(
        (0.2, 0.26), (0.33, 0.39), (0.8, 0.9), (0.95, 0.985), (0.42, 0.5), (0.54, 0.62),
        (0.78, 0.92), (0.95, 1.0), (0.44, 0.52), (0.05, 0.075), (0.5, 0.95),
    ),
}  # fmt: skip
