# SPDX-License-Identifier: Apache-2.0
"""The verdict says what the numbers say, never without the control."""

import pytest
import scipy.stats

from diffmem.report import results, verdict


def found(unique, false, searched=599, held_out=599, **more):
  return {
    "generated": 4096,
    "unique": unique,
    "searched": searched,
    "planted": {},
    "held_out": {"unique": false, "searched": held_out},
    **more,
  }


def test_found_beside_its_control():
  said = verdict.extraction(found(22, 1))
  assert said[0] == (
    "22 of 599 training images were reproduced in 4,096 generated images. The "
    "same search for 599 held-out images, which the model never saw, found 1."
  )
  assert "do not explain" in said[1]


def test_one_match_is_no_evidence():
  said = verdict.extraction(found(1, 0))
  assert said[0].startswith("1 of 599 training images was reproduced")
  assert "no evidence of memorization" in said[1]
  assert "0.5" in said[1]  # P(the one match falls among members)


def test_nothing_found_is_no_proof_of_absence():
  said = verdict.extraction(found(0, 0))
  assert said[0].startswith("None of 599 training images was reproduced")
  assert "found 0." in said[0]
  assert "does not prove" in said[1]
  assert "0.6%" in said[1]  # the upper end of 0 of 599


def test_no_held_out_images_means_no_control():
  said = verdict.extraction(found(9, 0, held_out=0))
  assert "no control" in said[0]
  assert "do not rely" in said[1]


def test_the_test_compares_sets_of_equal_size():
  control = {"members": 9, "held_out": 2, "searched": 300}
  whole = found(40, 2, searched=1000, held_out=300, control=control)
  said = " ".join(verdict.extraction(whole))
  assert "300 images each, 9 training and 2 held-out" in said
  table = [[9, 291], [2, 298]]
  want = scipy.stats.fisher_exact(table, alternative="greater").pvalue
  assert verdict.difference(whole) == pytest.approx(want)


def test_planted_images():
  planted = {"50": [4, 4], "20": [6, 6], "2": [1, 4], "1": [0, 585]}
  said = verdict.extraction(found(11, 0, planted=planted))[-1]
  assert said == (
    "Of 14 images planted 2 to 50 times in the training set, 11 came back, "
    "among them every one planted 20 times or more; of the 585 ordinary "
    "images, seen once, none did."
  )
  planted = {"20": [6, 6], "1": [3, 593]}
  said = verdict.extraction(found(9, 0, planted=planted))[-1]
  assert "planted 20 times in the training set, every one came back" in said
  assert "3 did" in said
  planted = {"20": [0, 6], "1": [0, 593]}
  said = verdict.extraction(found(0, 0, planted=planted))[-1]
  assert said.endswith(
    "none came back, nor did any of the 593 ordinary images, seen once."
  )
  planted = {"50": [3, 4], "20": [6, 6]}
  said = verdict.extraction(found(9, 0, planted=planted))[-1]
  assert "every one" not in said  # of 50 copies, one was missed


def test_membership():
  strong = {"auc": [0.9, 0.88, 0.92], "tpr@0.01": [0.3, 0.2, 0.4]}
  said = verdict.membership({"loss": strong, "pia": {"auc": [0.6, 0.5, 0.7]}})
  assert (
    "loss attack picks the training image with probability 0.900" in said[0]
  )
  assert "30% of the training images (20% to 40%)" in said[1]
  chance = {"auc": [0.51, 0.48, 0.54], "tpr@0.01": None}
  said = verdict.membership({"loss": chance})
  assert len(said) == 1
  assert "cannot tell" in said[0]


def test_absent_stages_are_sentences(workdir):
  workdir.train().extraction(finished=False)
  lead, further = verdict.verdict(results.read(workdir.root))
  assert lead.startswith("No attack has finished")
  assert "extraction stage began but has not finished" in further[0]
  assert "membership stage has not run" in further[1]
