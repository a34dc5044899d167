import torch

from nvsm_lightning.report.rows import PictureRows


def outputs(index, **more):
    index = torch.tensor(index)
    viewpoint = index[:, None].float().expand(-1, 3)
    return {"index": index, "viewpoint": viewpoint, "loss": -index.float(), **more}


def test_rows_come_in_order_once_with_unknown_truth_as_nan():
    rows = PictureRows()
    rows.add(outputs([2, 0], seconds=torch.tensor([0.5, 0.5])))
    rows.add(outputs([1, 2], seconds=3.0))
    gathered = rows.gathered()
    assert gathered.index.tolist() == [0, 1, 2]
    assert gathered.viewpoint[:, 0].tolist() == [0.0, 1.0, 2.0]
    assert gathered.loss.tolist() == [0.0, -1.0, -2.0]
    assert gathered.truth.isnan().all()
    assert gathered.seconds_per_image == 1.0  # four pictures were processed, one of them twice


def test_angles_in_degrees_lie_within_one_turn():
    rows = PictureRows()
    rows.add(
        {
            "index": torch.tensor([0, 1]),
            "viewpoint": torch.tensor([[-1.0, 190.0, 5.0], [360.5, -3.0, torch.nan]]).deg2rad(),
        }
    )
    expected = torch.tensor([[359.0, -170.0, 5.0], [0.5, -3.0, torch.nan]], dtype=torch.float64)
    torch.testing.assert_close(rows.gathered().viewpoint_deg, expected, atol=1e-4, rtol=0, equal_nan=True)


def test_no_batch_gives_no_rows():
    assert len(PictureRows().gathered().index) == 0


def two_processes(rank, store, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    rows = PictureRows()
    rows.add(outputs([[0, 2, 4], [1, 3]][rank], seconds=1.0))  # unequal shares
    gathered = rows.gathered()
    torch.save((gathered.index, gathered.loss, gathered.seconds_per_image), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_end_with_the_same_rows(tmp_path):
    torch.multiprocessing.spawn(two_processes, (tmp_path / "store", tmp_path), nprocs=2)
    for rank in range(2):
        index, loss, seconds = torch.load(tmp_path / f"{rank}.pt")
        assert index.tolist() == [0, 1, 2, 3, 4]
        assert loss.tolist() == [0.0, -1.0, -2.0, -3.0, -4.0]
        assert seconds == 0.4
