# SPDX-License-Identifier: Apache-2.0
"""CLiD: a member is denoised better with its caption than with less of it.

  loss(c)[i, t, j] = mean over pixels of (eps_hat(x_t, t, c) - eps_tj)^2
  D_k = loss(c^k) - loss(c),  L = -loss(c),  means over the draws j

c^k is the image's caption with its last tokens taken away, a share of
`clipped`_k of them, and for the last k the null condition; of a class label
only the null condition is left. All meet the same noise. (The paper takes
tokens by their importance; here they go from the end.)

  threshold  score = alpha S(mean_k D_k) + (1 - alpha) S(L), S(v) being
             (v - median) / (inter-quartile range)
  vector     log odds of gradient-boosted trees on (D_1, .., D_K, L); the
             paper's are XGBoost's

Higher means member. S, the trees, and alpha where it is None are fitted on
images whose membership is known and which nothing is reported on.

Zhai et al., "Membership Inference on Text-to-Image Diffusion Models via
Conditional Likelihood Discrepancy", NeurIPS 2024: t = 440, 450, 460, three
draws, clipped by 30, 50 and 70%.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from sklearn.ensemble import GradientBoostingClassifier

from diffmem import stats
from diffmem.arrays import Bool, Float
from diffmem.denoiser import conditions
from diffmem.membership import signals
from diffmem.membership.loss import denoising
from diffmem.membership.protocol import Attack

FORMS = ("threshold", "vector")
_ALPHAS = np.linspace(0.0, 1.0, 11)


def reduced(cond: Any, null: Any, clipped: tuple[float, ...]) -> list[Any]:
  """The conditions c^1 .. c^K of a block, the null condition last.

  Args:
    cond: labels [b], embeddings [b l e], or {"tokens": [b l e], "mask": [b
      l]}; of any other tree only the null condition is left.
    null: the null condition, without the batch axis.
    clipped: shares of the tokens that are taken away.
  """
  found = []
  if not _has_tokens(null):
    clipped = ()
  for share in clipped:
    if isinstance(cond, dict):
      mask = jnp.asarray(cond["mask"])
      place, count = mask.cumsum(1), mask.sum(1, keepdims=True)
      left = mask & (place <= _left(count, share))
      tokens = jnp.asarray(cond["tokens"]) * left[..., None]
      found.append({"tokens": tokens, "mask": left})
    else:
      cond = jnp.asarray(cond)
      size = cond.shape[1]
      left = (jnp.arange(size) < _left(size, share))[None, :, None]
      found.append(jnp.where(left, cond, jnp.asarray(null)[None]))
  return [*found, conditions.expand(null, cond)]


def _has_tokens(null: Any) -> bool:
  if isinstance(null, dict):
    return set(null) == {"tokens", "mask"}
  return getattr(null, "ndim", 0) == 2


def _left(count: Any, share: float) -> Any:
  """How many of so many tokens stay: none is cut in half."""
  return jnp.ceil(jnp.asarray(count) * (1.0 - share) - 1e-4)


def _losses(denoiser, params, x0, t, eps, cond, null, *, clipped):
  """[b 1+K]: with the condition, and with each reduced one."""
  views = [cond, *reduced(cond, null, clipped)]
  return jnp.stack(
    [denoising(denoiser, params, x0, t, eps, c) for c in views], axis=1
  )


def _block(queries, images, cond, *, t, draws, clipped, seed):
  x0 = queries.encode(images)
  null = conditions.null(queries.denoiser)
  return [
    queries.call(
      _losses,
      x0,
      queries.number(s),
      queries.noise(seed, s, j),
      cond,
      null,
      clipped=tuple(clipped),
    )
    for s in t
    for j in range(draws)
  ]


def _shape(denoiser, *, t, draws, clipped, seed):
  denoiser.require("null_cond", by="attack 'clid'")
  signals.at_least_one(draws=draws)
  for share in clipped:
    if not 0 < share < 1:
      raise ValueError(
        f"clipped = {tuple(clipped)}: expected shares of the caption, "
        "between 0 and 1"
      )
  views = 2 + _has_tokens(conditions.null(denoiser)) * len(clipped)
  return (len(t), draws, views)


SIGNAL = signals.Signal("likelihoods", _block, _shape)


@dataclasses.dataclass(frozen=True)
class Fitted:
  """What was learnt for one time.

  centre and width are of (mean D, L); trees is None in the threshold form.
  """

  centre: Float[np.ndarray, "2"]
  width: Float[np.ndarray, "2"]
  alpha: float
  trees: Any


def features(
  losses: Float[np.ndarray, "n t draws k1"],
) -> Float[np.ndarray, "n t k1"]:
  """(D_1 .. D_K, L) of each image at each time."""
  mean = losses.mean(axis=2, dtype=np.float64)
  return np.concatenate([mean[..., 1:] - mean[..., :1], -mean[..., :1]], -1)


def fit(
  losses: Float[np.ndarray, "n t draws k1"],
  is_member: Bool[np.ndarray, " n"],
  *,
  form: str = "threshold",
  alpha: float | None = None,
  seed: int = 0,
) -> list[Fitted]:
  """What the scores need of each time, from images that are known.

  Args:
    losses: of SIGNAL.
    is_member: which of the images are members.
    form: one of FORMS.
    alpha: the weight of D; None for the best AUC of 0, 0.1, .., 1.
    seed: of the trees.

  Raises:
    ValueError: a form or a weight that cannot be.
  """
  if form not in FORMS:
    raise ValueError(f"form = {form!r}: choose one of {', '.join(FORMS)}")
  if alpha is not None and not 0 <= alpha <= 1:
    raise ValueError(f"alpha = {alpha}: expected a weight between 0 and 1")
  is_member = np.asarray(is_member, bool)
  found = []
  for column in np.moveaxis(features(losses), 1, 0):
    pair = _pair(column)
    low, centre, high = np.quantile(pair, [0.25, 0.5, 0.75], axis=0)
    one = Fitted(centre, high - low, alpha or 0.0, None)
    if form == "vector":
      trees = GradientBoostingClassifier(random_state=seed)
      one = dataclasses.replace(one, trees=trees.fit(column, is_member))
    elif alpha is None:
      auc = [
        stats.auc(scored[is_member], scored[~is_member])
        for scored in (_weighted(pair, one, a) for a in _ALPHAS)
      ]
      best = float(_ALPHAS[int(np.argmax(auc))])
      one = dataclasses.replace(one, alpha=best)
    found.append(one)
  return found


def scores(
  losses: Float[np.ndarray, "n t draws k1"], fitted: list[Fitted]
) -> Float[np.ndarray, "n t"]:
  """Scores from the losses; higher means member."""
  columns = []
  for one, column in zip(
    fitted, np.moveaxis(features(losses), 1, 0), strict=True
  ):
    if one.trees is not None:
      columns.append(one.trees.decision_function(column))
    else:
      columns.append(_weighted(_pair(column), one, one.alpha))
  return np.stack(columns, axis=1)


def _pair(column: Float[np.ndarray, "n k1"]) -> Float[np.ndarray, "n 2"]:
  return np.stack([column[:, :-1].mean(1), column[:, -1]], axis=1)


def _weighted(
  pair: Float[np.ndarray, "n 2"], one: Fitted, alpha: float
) -> Float[np.ndarray, " n"]:
  # Where the conditions make no difference, D is 0 and so is its width.
  width = np.where(one.width > 0, one.width, np.inf)
  return ((pair - one.centre) / width) @ np.array([alpha, 1 - alpha])


ATTACK = Attack(
  name="clid",
  source="Zhai et al. 2024",
  signal=SIGNAL,
  scores=scores,
  fit=fit,
  defaults={
    "draws": 3,
    "clipped": (0.3, 0.5, 0.7),
    "seed": 0,
    "form": "threshold",
    "alpha": None,
  },
  queries=lambda *, t, draws, clipped, **_: len(t) * draws * (2 + len(clipped)),
)
