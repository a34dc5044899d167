"""A distribution over poses, made of the losses that the solver computes anyway.

``p(R | picture)`` is proportional to ``prior(R) exp(-loss(R) / T)``. The temperature T is one number, fitted on
validation pictures (:mod:`nvsm_lightning.pose.uncertainty`): a mean over map cells is no log-likelihood by itself. The
distribution lives on the angles that are free: the circle of azimuths, or SO(3) with all three.

The loss is known on the start grid, which cuts the space into cells, and at the refined modes. So the density is a
mixture that can be normalised, drawn from and marginalised in closed form: constant in every cell (a fifth of the
grid's steps, with losses in between), and on top of that a Gaussian at every refined mode, as wide as the
curvature of the grid says. Where the grid does not reach (few elevations, one theta) a uniform share remains,
:data:`OUTSIDE`. The base measure is the Haar measure of total mass 1, ``da/2pi  cos(e) de/2  dt/2pi`` in azimuth,
elevation and theta: a constant loss on a grid that covers everything gives the density 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nvsm_lightning.geometry.viewpoints import viewpoint_error, wrap_angle
from nvsm_lightning.pose.solver import ScoredPoses

OUTSIDE = 0.01  # prior probability that the pose is not in the searched part; nothing where all is searched
REACH = math.radians(15.0)  # of an angle that is free but has a single grid value
FINER = 5  # cells for each value of the grid in a free angle; odd
SAME = math.radians(15.0)  # refined modes closer than this are one
NARROWEST = math.radians(0.25)  # width of a mode: labels are not more exact
BOWL = 32  # parts of the reach of a mode for its integral: exact to six digits
TURN = 2 * math.pi


@dataclass(frozen=True)
class Axis:
    """One free angle and its cells.

    Attributes:
        angle: 0 azimuth, 1 elevation, 2 theta.
        values: grid values in radians, rising.
        edges: cell borders in radians, rising.
    """

    angle: int
    values: Float[Tensor, " cell"]
    edges: Float[Tensor, " edge"]

    @property
    def measure(self) -> Float[Tensor, " cell"]:
        """Base measure of each cell; sums to 1 where the cells cover everything."""
        return cumulative(self.edges, self.angle).diff()

    def find(self, x: Float[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
        """The cell that an angle in radians falls into; -1 outside. A pole is in the last one before it."""
        if self.angle == 1:
            x = x.clamp(-math.pi / 2, math.pi / 2)
        else:
            x = self.edges[0] + (x - self.edges[0]) % TURN
        cell = torch.bucketize(x.contiguous(), self.edges, right=True) - 1
        if self.angle == 1:
            cell = torch.where(x == self.edges[-1], len(self.values) - 1, cell)
        return torch.where(cell < len(self.values), cell, -1)


def cumulative(x: Float[Tensor, "*batch"], angle: int) -> Float[Tensor, "*batch"]:
    """Base measure of an angle up to ``x`` radians, from an arbitrary start."""
    return (x.sin() + 1) / 2 if angle == 1 else x / TURN


def inverse_cumulative(share: Float[Tensor, "*batch"], angle: int) -> Float[Tensor, "*batch"]:
    """Inverse of :func:`cumulative`."""
    return (2 * share - 1).clamp(-1, 1).asin() if angle == 1 else share * TURN


def base_density(x: Float[Tensor, "*batch"], angle: int) -> Float[Tensor, "*batch"]:
    """Derivative of :func:`cumulative`: base measure a radian."""
    return x.cos().clamp_min(0.0) / 2 if angle == 1 else torch.full_like(x, 1 / TURN)


def bowl_measures(
    middle: Float[Tensor, "*batch"], width: Float[Tensor, "*batch"], angle: int
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"], Float[Tensor, "*batch {BOWL}"]]:
    """Cuts the reach of ``exp(-((x - middle) / width) ** 2 / 2)``, five widths within the angle's range, into
    :data:`BOWL` parts: its low end, the length of a part, and the integral over each by the base measure (midpoint
    rule). At a pole, where that measure vanishes, no closed form is as good."""
    end = math.pi / 2 if angle == 1 else math.inf
    reach = 5 * width if angle == 1 else (5 * width).clamp_max(TURN / 2)
    low, high = (middle - reach).clamp_min(-end), (middle + reach).clamp_max(end)
    part = (high - low) / BOWL
    x = low[..., None] + part[..., None] * (torch.arange(BOWL).to(low) + 0.5)
    height = (-0.5 * ((x - middle[..., None]) / width[..., None]) ** 2).exp()
    return low, part, height * base_density(x, angle) * part[..., None]


def make_axis(values: Float[Tensor, " cell"], angle: int) -> Axis:
    """Cells around rising grid values: borders half-way; at the ends as far out as the next border is in, or
    :data:`REACH` for a single value. Azimuths cover the full turn.
    """
    values = values.double()
    middle = (values[1:] + values[:-1]) / 2
    if angle == 0:
        start = (values[-1:] - TURN + values[:1]) / 2
        return Axis(angle, values, torch.cat((start, middle, start + TURN)))
    if len(values) == 1:
        low, high = values - REACH, values + REACH
    else:
        low, high = 2 * values[:1] - middle[:1], 2 * values[-1:] - middle[-1:]
    limit = math.pi / 2 if angle == 1 else TURN  # no more than all elevations, no more than one turn
    low = low.clamp_min(-limit)
    return Axis(angle, values, torch.cat((low, middle, high.clamp_max(limit if angle == 1 else low.item() + TURN))))


@dataclass(frozen=True)
class PosePosterior:
    """The distribution of each picture of a batch; masses add up to 1.

    Attributes:
        axes: the free angles.
        cell_mass: probability of the constant part of each grid cell.
        mode: refined viewpoints in radians, the best first.
        mode_mass: probability of the Gaussian at each mode.
        width: its standard deviation in each angle, radians; 0 where an angle is not free.
        outside: probability of the uniform part.
    """

    axes: tuple[Axis, ...]
    cell_mass: Float[Tensor, "batch *cells"]
    mode: Float[Tensor, "batch mode 3"]
    mode_mass: Float[Tensor, "batch mode"]
    width: Float[Tensor, "batch mode 3"]
    outside: float

    @property
    def angles(self) -> tuple[int, ...]:
        """The free angles by number."""
        return tuple(axis.angle for axis in self.axes)

    def log_density(
        self, viewpoint: Float[Tensor, "batch pose 3"], angles: Sequence[int] | None = None
    ) -> Float[Tensor, "batch pose"]:
        """Log density at viewpoints in radians, in relation to the base measure (uniform: 0), of the marginal over
        ``angles``; default: of all free ones.
        """
        wanted = self.angles if angles is None else [angle for angle in self.angles if angle in angles]
        others = [1 + number for number, angle in enumerate(self.angles) if angle not in wanted]
        mass = self.cell_mass.sum(others) if others else self.cell_mass
        axes = [axis for axis in self.axes if axis.angle in wanted]
        viewpoint = viewpoint.to(mass)
        index, measure = torch.zeros(viewpoint.shape[:2], dtype=torch.long, device=mass.device), mass.new_ones(1)
        inside = torch.ones_like(index, dtype=torch.bool)
        gauss = self.mode_mass[:, None].expand(-1, viewpoint.shape[1], -1)
        for axis in axes:
            x = viewpoint[..., axis.angle]
            cell = axis.find(x)
            inside = inside & (cell >= 0)
            index = index * len(axis.values) + cell.clamp_min(0)
            measure = (measure[:, None] * axis.measure).flatten()
            gauss = gauss * self._gauss(x, axis.angle)
        cells = torch.where(inside, mass.reshape(len(mass), -1).gather(1, index) / measure[index], 0.0)
        # far from every mode of a narrow distribution nothing is left of the exponentials
        return (self.outside + cells + gauss.sum(-1)).clamp_min(torch.finfo(mass.dtype).tiny).log()

    def _gauss(self, x: Float[Tensor, "batch pose"], angle: int) -> Float[Tensor, "batch pose mode"]:
        """Density of the Gaussian of each mode in one angle, in relation to the base measure."""
        middle, width = self.mode[..., angle], self.width[..., angle]
        away = x[..., None] - middle[:, None]
        away = away if angle == 1 else wrap_angle(away)
        whole = bowl_measures(middle, width, angle)[2].sum(-1)
        return (-0.5 * (away / width[:, None]) ** 2).exp() / whole[:, None]

    def draws(self, count: int = 1024) -> Float[Tensor, "batch {count} 3"]:
        """Viewpoints in radians drawn from each distribution by the same Sobol points: no random numbers.

        An angle that is not free is that of the first mode.
        """
        share = torch.quasirandom.SobolEngine(4).draw(count, dtype=torch.float64).to(self.mode) + 0.5 / count
        share = share.clamp(1e-9, 1 - 1e-9)
        batch, modes = self.mode_mass.shape
        parts = torch.cat(
            (self.cell_mass.reshape(batch, -1), self.mode_mass, self.mode_mass.new_full((batch, 1), self.outside)), 1
        )
        total = parts.cumsum(1)
        part = torch.searchsorted(total, (share[:, 0] * total[:, -1:]).contiguous()).clamp_max(parts.shape[1] - 1)
        cells = self.cell_mass[0].numel()
        mode = (part - cells).clamp(0, modes - 1)[..., None].expand(-1, -1, 3)
        is_cell, is_outside = part < cells, part == cells + modes
        found, centre, width = (
            self.mode[:, :1].expand(-1, count, -1).clone(),
            *(each.gather(1, mode) for each in (self.mode, self.width)),
        )
        cell = part.clamp_max(cells - 1)
        for number, axis in reversed(list(enumerate(self.axes))):
            at = cell % len(axis.values)
            cell = torch.div(cell, len(axis.values), rounding_mode="floor")
            u = share[:, 1 + number]
            start = cumulative(axis.edges[:-1], axis.angle)
            in_cell = inverse_cumulative(start[at] + u * axis.measure[at], axis.angle)
            middle, spread = centre[..., axis.angle], width[..., axis.angle]
            at_mode = _elevations(u, middle, spread) if axis.angle == 1 else middle + spread * torch.special.ndtri(u)
            x = torch.where(is_cell, in_cell, torch.where(is_outside, inverse_cumulative(u, axis.angle), at_mode))
            found[..., axis.angle] = x
        return found


def _elevations(
    share: Float[Tensor, " draw"], middle: Float[Tensor, "batch draw"], width: Float[Tensor, "batch draw"]
) -> Float[Tensor, "batch draw"]:
    """The elevations below which a Gaussian between the poles has these shares by the base measure."""
    low, part, measure = bowl_measures(middle, width.clamp_min(NARROWEST), 1)
    total = torch.nn.functional.pad(measure.cumsum(-1), (1, 0))
    wanted = (share * total[..., -1])[..., None]
    at = torch.searchsorted(total[..., 1:].contiguous(), wanted.contiguous()).clamp_max(BOWL - 1)
    before, after = total.gather(-1, at), total.gather(-1, at + 1)
    return low + part * (at + (wanted - before) / (after - before).clamp_min(1e-300))[..., 0]


def pose_posterior(scored: ScoredPoses, free: Bool[Tensor, "3"], temperature: float) -> PosePosterior:
    """The distribution of each picture.

    Poses whose loss is not finite get the largest finite loss of the picture.
    """
    order = scored.mode_loss.nan_to_num(torch.inf).argsort(1)  # of modes at one place the best counts
    grid, mode = scored.grid.double(), scored.mode.double().gather(1, order[..., None].expand(-1, -1, 3))
    # Refined beyond a pole: the elevations end there, and no Gaussian has any of its mass between the poles.
    mode[..., 1] = mode[..., 1].clamp(-math.pi / 2, math.pi / 2)
    place = [grid[:, angle].unique(return_inverse=True) for angle in range(3)]
    axes = [make_axis(values, angle) for angle, (values, _) in enumerate(place)]
    position = tuple(index for _, index in place)
    loss, mode_loss = _finite(scored.grid_loss.double(), scored.mode_loss.double().gather(1, order))
    dense = loss.new_full((len(loss), *(len(values) for values, _ in place)), torch.inf)
    dense[:, *position] = loss
    low = torch.minimum(loss.amin(1), mode_loss.amin(1))
    fixed = [1 + angle for angle in range(3) if not free[angle]]
    nearest = viewpoint_error(mode[:, :, None], grid).argmin(-1)
    at = tuple(index[nearest] for index in position)
    curvature = [_curvature(dense, axes, at, mode, mode_loss, angle) for angle in range(3)]
    coarse, fine = axes.copy(), dense
    for angle in range(3):
        if free[angle]:
            axes[angle], fine = _finer(coarse[angle], fine, curvature[angle][:, 0])
            at = (*at[:angle], _nearest(axes[angle], mode[..., angle]), *at[angle + 1 :])
    cell = torch.exp((low[:, None, None, None] - fine) / temperature)
    for axis in axes:
        if free[axis.angle]:
            cell = cell * axis.measure.view([-1 if angle == axis.angle else 1 for angle in range(3)])
    cell = cell.sum(fixed) / math.prod(fine.shape[angle] for angle in fixed) if fixed else cell
    rows = torch.arange(len(loss), device=loss.device)[:, None]
    plateau = fine[rows, at[0], at[1], at[2]]
    height = torch.exp((low[:, None] - mode_loss) / temperature) - torch.exp((low[:, None] - plateau) / temperature)
    height = height.clamp_min(0.0).masked_fill(_repeated(mode), 0.0)
    width, volume = torch.zeros_like(mode), torch.ones_like(height)
    for axis in (axis for axis in axes if free[axis.angle]):
        widest = max(float(coarse[axis.angle].edges.diff().amax()), NARROWEST)
        spread = (temperature / curvature[axis.angle].clamp_min(1e-9)).sqrt()
        width[..., axis.angle] = spread.clamp(NARROWEST, widest)
        volume = volume * bowl_measures(mode[..., axis.angle], width[..., axis.angle], axis.angle)[2].sum(-1)
    peak = height * volume
    searched = tuple(axis for axis in axes if free[axis.angle])
    covered = math.prod(float(axis.measure.sum()) for axis in searched)
    outside = OUTSIDE if covered < 1 - 1e-6 else 0.0
    scale = (1 - outside) / (cell.reshape(len(cell), -1).sum(1) + peak.sum(1))
    return PosePosterior(
        searched, cell * scale.view(-1, *[1] * len(searched)), mode, peak * scale[:, None], width, outside
    )


def _finer(
    axis: Axis, dense: Float[Tensor, "batch azimuth elevation theta"], curvature: Float[Tensor, " batch"]
) -> tuple[Axis, Float[Tensor, "batch finer_azimuth finer_elevation finer_theta"]]:
    """:data:`FINER` cells in place of each, with losses between those of the grid: linear in between, constant beyond
    the ends. Of a single value other than an azimuth, a parabola of the best mode's curvature.
    """
    angle, count = axis.angle, len(axis.values)
    share = (torch.arange(FINER) - FINER // 2).to(dense) / FINER
    if angle and count == 1:
        values = axis.values + share * axis.edges.diff()
        bowl = curvature.clamp_min(0.0)[:, None] * (values - axis.values) ** 2 / 2
        return _below_poles(values, dense + bowl.view(-1, *[FINER if each == angle else 1 for each in range(3)]), angle)
    before, after = axis.values - axis.values.roll(1), axis.values.roll(-1) - axis.values
    previous, following = dense.roll(1, 1 + angle), dense.roll(-1, 1 + angle)
    if angle == 0:
        before[0], after[-1] = before[0] + TURN, after[-1] + TURN
    else:
        before[0], after[-1] = after[0], before[-1]
        previous.select(1 + angle, 0).copy_(dense.select(1 + angle, 0))
        following.select(1 + angle, -1).copy_(dense.select(1 + angle, -1))
    values = axis.values[:, None] + torch.where(share < 0, before[:, None], after[:, None]) * share
    loss = [dense * (1 - abs(each)) + (previous if each < 0 else following) * abs(each) for each in share.tolist()]
    return _below_poles(values.flatten(), torch.stack(loss, 2 + angle).flatten(1 + angle, 2 + angle), angle)


def _below_poles(
    values: Float[Tensor, " cell"], loss: Float[Tensor, "batch azimuth elevation theta"], angle: int
) -> tuple[Axis, Float[Tensor, "batch azimuth elevation theta"]]:
    """The axis of these values, and the losses, without elevations beyond straight above or below: there is nothing."""
    if angle == 1:
        inside = (values.abs() <= math.pi / 2 + 1e-6).nonzero()[:, 0]
        values, loss = values[inside], loss.index_select(1 + angle, inside)
    return make_axis(values, angle), loss


def _nearest(axis: Axis, x: Float[Tensor, "batch mode"]) -> Int[Tensor, "batch mode"]:
    """The cell of each angle in radians, outside of all the nearest one."""
    cell = axis.find(x)
    return torch.where(cell < 0, wrap_angle(x[..., None] - axis.values).abs().argmin(-1), cell)


def _finite(*losses: Tensor) -> list[Tensor]:
    together = torch.cat(losses, 1)
    worst = together.masked_fill(~together.isfinite(), -torch.inf).amax(1, keepdim=True)
    worst = torch.where(worst.isfinite(), worst, torch.ones_like(worst))
    return [torch.where(loss.isfinite(), loss, worst) for loss in losses]


def _repeated(mode: Float[Tensor, "batch mode 3"]) -> Bool[Tensor, "batch mode"]:
    """Modes that an earlier one of the same picture lies next to."""
    near = viewpoint_error(mode[:, :, None], mode[:, None]) < SAME
    return near.tril(-1).any(-1)


def _curvature(
    dense: Float[Tensor, "batch azimuth elevation theta"],
    axes: Sequence[Axis],
    at: tuple[Int[Tensor, "batch mode"], ...],
    mode: Float[Tensor, "batch mode 3"],
    mode_loss: Float[Tensor, "batch mode"],
    angle: int,
) -> Float[Tensor, "batch mode"]:
    """Curvature of the loss at each mode in one angle: of the parabola from the mode through its grid pose and the two
    neighbours (least squares). Fewer than three grid values tell none, and that of the azimuth stands in.
    """
    read = angle if len(axes[angle].values) > 2 else 0
    values, count = axes[read].values, len(axes[read].values)
    if count < 3:
        return torch.zeros_like(mode_loss)
    middle = at[read] if read == 0 else at[read].clamp(1, count - 2)
    rows = torch.arange(len(dense), device=dense.device)[:, None]
    half_square, loss = [], []
    for step in (-1, 0, 1):
        place = list(at)
        place[read] = (middle + step) % count
        half_square.append(wrap_angle(values[place[read]] - mode[..., read]) ** 2 / 2)
        loss.append(dense[rows, place[0], place[1], place[2]])
    x, y = torch.stack(half_square), torch.stack(loss) - mode_loss
    return (x * y).sum(0) / (x * x).sum(0).clamp_min(1e-12)
