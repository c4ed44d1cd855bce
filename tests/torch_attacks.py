# SPDX-License-Identifier: Apache-2.0
"""SecMI, PIA and PIAN in PyTorch, written from the papers, as an oracle.

With ab_t the product of 1 - beta (Ho et al. 2020, linear), t an index:

  phi(x, t -> u) = sqrt(ab_u) (x - sqrt(1 - ab_t) e) / sqrt(ab_t)
                   + sqrt(1 - ab_u) e,   e = network(x, t)
  SecMI  |phi(phi(x_s, s -> s + k), s + k -> s) - x_s|^2 summed over pixels,
         x_s from x_0 by hops of k (Duan et al. 2023)
  PIA    sum |e_0 - network(sqrt(ab_t) x_0 + sqrt(1 - ab_t) e_0, t)|^4,
         e_0 = network(x_0, 0) (Kong et al. 2024)
  PIAN   the same with e_0 scaled to mean |e_0| = sqrt(2 / pi)

Everything is computed in the type of the images, as it is written above:
differences of images that are nearly equal are left as they are. Small means
member here, as in the papers; images are float [b c h w] in [-1, 1].
"""

import math

import numpy as np
import torch

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
ALPHA_BAR = torch.cumprod(1 - BETAS, 0)


def noise(network, x, t):
  return network(x, torch.full((len(x),), t))


def hop(network, x, t, u):
  now, then = (ALPHA_BAR[s].to(x.dtype) for s in (t, u))
  e = noise(network, x, t)
  clean = (x - (1 - now).sqrt() * e) / now.sqrt()
  return then.sqrt() * clean + (1 - then).sqrt() * e


@torch.inference_mode()
def secmi(network, x, s, k=10):
  """The error at index s, a multiple of k.

  The paper's t is s; the authors' program says t = s + k of the same.
  """
  for t in range(0, s, k):
    x = hop(network, x, t, t + k)
  back = hop(network, hop(network, x, s, s + k), s + k, s)
  return ((back - x) ** 2).sum((1, 2, 3)).numpy()


@torch.inference_mode()
def pia(network, x, t, normalised=False):
  e = noise(network, x, 0)
  if normalised:
    size = e.abs().mean((1, 2, 3), keepdim=True)
    e = e / size * math.sqrt(2 / math.pi)
  signal = ALPHA_BAR[t].to(x.dtype)
  noisy = signal.sqrt() * x + (1 - signal).sqrt() * e
  return ((e - noise(network, noisy, t)).abs() ** 4).sum((1, 2, 3)).numpy()


def on_a_grid(members, others, points=2000):
  """(AUC, TPR at 1% false alarms) as SecMI's program has them.

  By the trapezoid rule over linear thresholds from the smallest to the
  largest score; the TPR is that of the threshold whose rate of false alarms
  is nearest to 1%, below or above it.
  """
  both = np.concatenate([members, others])
  thresholds = np.linspace(both.min(), both.max(), points, endpoint=False)
  true, false = (
    np.mean(scores[:, None] <= thresholds, axis=0)
    for scores in (members, others)
  )
  return np.trapezoid(true, false), true[np.argmin(np.abs(false - 0.01))]
