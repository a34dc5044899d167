import torch

from nvsm_lightning.metrics.pose import pose_error, pose_metrics
from nvsm_lightning.metrics.state import PoseErrors, unique_rows


def viewpoints(count, seed):
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(seed))


def test_batches_equal_one_call():
    predicted, truth = viewpoints(10, 0), viewpoints(10, 1)
    state = PoseErrors()
    for part in torch.arange(10).split(4):
        state.update(predicted[part], truth[part], part)
    assert state.compute() == pose_metrics(pose_error(predicted, truth))


def test_pictures_repeated_by_a_distributed_sampler_count_once():
    predicted, truth = viewpoints(3, 0), viewpoints(3, 1)
    index = torch.tensor([2, 0, 1, 2, 0])
    state = PoseErrors()
    state.update(predicted[index], truth[index], index)
    assert state.compute() == pose_metrics(pose_error(predicted, truth))
    assert state.errors()[0].tolist() == [0, 1, 2]


def test_reset_forgets():
    state = PoseErrors()
    state.update(viewpoints(2, 0), viewpoints(2, 1), torch.arange(2))
    state.reset()
    state.update(viewpoints(1, 0), viewpoints(1, 0), torch.arange(1))
    assert state.compute()["n_images"] == 1


def test_unique_rows_keeps_the_first():
    index, values = unique_rows(torch.tensor([3, 1, 3]), torch.tensor([[1.0], [2.0], [9.0]]))
    assert index.tolist() == [1, 3]
    assert values.tolist() == [[2.0], [1.0]]
