"""Hard z-buffers from several engines, and everything differentiable recomputed from their face ids in torch.

An engine answers one question only: which face is seen in each cell of the map
(:func:`nvsm_lightning.render.engines.rasterize`). Barycentric weights, features and gradients are then computed once,
in torch, for all engines alike, so that there is one gradient and one test suite. Entry points: :mod:`.renderer`
(``FeatureRenderer``), :mod:`.engines`, :mod:`.fragments`, :mod:`.visibility`.
"""
