"""The E-step by matrix products: the losses of the similarity table."""

import pytest
import torch

from nvsm_lightning.errors import ConfigError
from nvsm_lightning.matching.matcher import MatchSettings
from nvsm_lightning.matching.selection import SelectionSettings
from nvsm_lightning.training.schedule import EMSchedule

LOSSES = [*range(12), *range(18, 30)]  # columns of the one source and of the other; two refined modes between them


def e_step(make_method, data, **match):
    """Rows of the pool under an untrained network and a random bank."""
    torch.manual_seed(0)
    gates = SelectionSettings(agree_deg=30.0)  # so that both sources are matched
    method = make_method(match=MatchSettings(steps=0, **match), selection=gates).eval()
    with torch.no_grad():
        method.start_matching(0, data)
        return method, torch.cat([method.match(batch) for batch in data.pool_dataloader()])


@pytest.mark.parametrize(("source", "mirror"), [("bank", True), ("anchors", False), ("anchors_mean", False)])
def test_both_engines_give_the_same_losses(make_method, make_data, source, mirror) -> None:
    """The pictures share one camera."""
    data = make_data()
    data.setup("fit")
    options = {"source": source, "score": "area", "mirror": mirror}
    _, table = e_step(make_method, data, **options)
    method, products = e_step(make_method, data, engine="products", **options)
    assert {source for source, _ in method.products} == {source, "bank" if source != "bank" else "anchors"}
    torch.testing.assert_close(products, table, atol=5e-6, rtol=0)
    assert table[:, LOSSES].masked_fill(table[:, LOSSES].isinf(), 0).std() > 0.01
    assert all(len(made._queries) == 1 for made in method.products.values())
    rounded = e_step(make_method, data, engine="products_bf16", **options)[1]
    assert 1e-6 < (rounded - table)[:, LOSSES].nan_to_num().abs().max() < 0.02


def test_the_likelihood_is_no_product_of_maps(make_method, make_data) -> None:
    data = make_data()
    data.setup("fit")
    with pytest.raises(ConfigError, match=r"computes the score area, not likelihood.*match\.score area"):
        e_step(make_method, data, score="likelihood", engine="products")


def test_unknown_engines_are_named() -> None:
    with pytest.raises(ConfigError, match="Unknown engine 'fast'"):
        MatchSettings(engine="fast")


def test_maps_of_an_e_step_do_not_serve_the_next(make_method, make_data, make_trainer) -> None:
    """The network has changed in between."""
    rows: dict[str, list[torch.Tensor]] = {"table": [], "products": []}
    for engine, seen in rows.items():
        method = make_method(match=MatchSettings(score="area", steps=0, engine=engine))
        finish = method.finish_matching
        method.finish_matching = lambda number, found, data, seen=seen, finish=finish: (
            seen.append(found[:, :12].clone()), finish(number, found, data)
        )  # fmt: skip
        make_trainer(EMSchedule(2, 1), 2).fit(method, make_data())
        assert method.products == {} and method.anchors is None
    for first, second in zip(rows["table"], rows["products"], strict=True):
        torch.testing.assert_close(first, second, atol=5e-5, rtol=0)
    assert (rows["table"][0] - rows["table"][1]).abs().max() > 1e-3
