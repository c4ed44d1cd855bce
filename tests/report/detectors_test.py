# SPDX-License-Identifier: Apache-2.0
from diffmem.report import detectors, page

ONE = {
  "auc": [0.91, 0.85, 0.96],
  "tpr@0.01": None,
  "source": "Wen et al. 2024",
  "queries": 80,
  "ordinary_against_unseen": [0.52, 0.44, 0.6],
  "exploratory": [{"steps": 1, "draws": 4, "auc": [0.8, 0.7, 0.9]}],
}
FOUND = {
  "prompts": {"planted": 24, "ordinary": 160, "unseen": 12},
  "detectors": {"magnitude": ONE, "mine": {**ONE, "exploratory": []}},
}


def test_numbers_with_their_intervals():
  told = detectors.context(FOUND)
  assert told is not None
  assert told["planted"] == "24 planted captions"
  assert (told["ordinary"], told["unseen"]) == ("160", "12")
  first, second = told["rows"]
  assert first["auc"] == "0.910 (0.850 to 0.960)"
  assert first["tpr"] == "cannot be told"
  assert first["unseen"] == "0.520 (0.440 to 0.600)"
  assert second["name"] == "mine"
  (fewer,) = told["fewer"]
  assert (fewer["steps"], fewer["draws"]) == ("1", "4")


def test_nothing_and_why():
  assert detectors.context(None) is None
  missing = {"missing": "the model takes no captions"}
  assert detectors.context(missing) == missing


def test_the_section_of_the_page():
  template = page.environment().get_template("detectors.html.j2")
  text = template.render(detectors=detectors.context(FOUND))
  for part in (
    "24 planted captions",
    "against 160 ordinary ones",
    "against 12 captions that no training image has",
    "0.910 (0.850 to 0.960)",
    "1 and 4: AUC 0.800",
  ):
    assert part in text
  assert not template.render(detectors=None).strip()
  missing = detectors.context({"missing": "there are none"})
  assert "Not scored: there are none." in template.render(detectors=missing)
