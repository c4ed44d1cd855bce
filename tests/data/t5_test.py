# SPDX-License-Identifier: Apache-2.0
"""T5 by path: a tiny network with random weights and words, built here."""

import numpy as np
import pytest

from diffmem import data
from diffmem.data import captions, encoders, t5

pytestmark = pytest.mark.torch
TEXTS = ("a big dog", "a dog", "a big big big dog")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  tokenizers = pytest.importorskip("tokenizers")
  torch.set_num_threads(1)
  torch.manual_seed(0)
  path = tmp_path_factory.mktemp("models") / "t5"
  words = ["<pad>", "</s>", "<unk>", "a", "big", "dog"]
  raw = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(
      {word: i for i, word in enumerate(words)}, unk_token="<unk>"
    )
  )
  raw.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  raw.post_processor = tokenizers.processors.TemplateProcessing(
    single="$A </s>", special_tokens=[("</s>", 1)]
  )
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
  ).save_pretrained(path)
  config = transformers.T5Config(
    vocab_size=len(words), d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2
  )
  transformers.T5EncoderModel(config).eval().save_pretrained(path)
  return path


def create(path, length=6, features=None):
  return encoders.create("t5", path=path, length=length, features=features)


def test_equals_the_model_on_each_text_alone(folder):
  torch = pytest.importorskip("torch")
  encoder = create(folder)
  assert (encoder.length, encoder.features) == (6, 8)
  np.testing.assert_array_equal(encoder.counts(TEXTS), [4, 3, 6])
  tokens, mask = encoder.encode(TEXTS)
  np.testing.assert_array_equal(mask.sum(axis=1), [4, 3, 6])
  assert not tokens[~mask].any()
  model = t5.load(folder)
  for text, row in zip(TEXTS, tokens, strict=True):
    ids = model.tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
      hidden = model.model(input_ids=ids).last_hidden_state[0].numpy()
    np.testing.assert_allclose(row[: len(hidden)], hidden, atol=1e-5)


def test_into_a_store_with_the_digest_of_the_weights(folder, tmp_path):
  transformers = pytest.importorskip("transformers")
  torch = pytest.importorskip("torch")
  dataset = data.Dataset(
    images=np.zeros((3, 2, 2, 1), np.uint8), ids=np.arange(3), captions=TEXTS
  )
  options = dict(encoder="t5", length=6, features=8, cut=False, progress=False)
  made = captions.prepare(tmp_path, dataset, path=folder, **options)
  assert made.tokens.shape == (3, 6, 8)
  with pytest.raises(ValueError, match="1 of 3 captions need more than"):
    captions.prepare(
      tmp_path / "short", dataset, path=folder, **(options | {"length": 5})
    )
  other = tmp_path / "t5"
  model = transformers.T5EncoderModel.from_pretrained(folder)
  transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(other)
  model.save_pretrained(other)
  captions.prepare(tmp_path, dataset, path=other, **options)  # the same weights
  with torch.no_grad():
    next(model.parameters()).mul_(2)
  model.save_pretrained(other)
  with pytest.raises(ValueError, match="its input 'encoder_sha256'"):
    captions.prepare(tmp_path, dataset, path=other, **options)


def test_what_is_no_t5_is_refused(folder, tmp_path):
  with pytest.raises(ValueError, match=r"features=4, but T5 of .* has 8"):
    create(folder, features=4)
  (tmp_path / "config.json").write_text('{"model_type": "bert"}')
  with pytest.raises(ValueError, match="is no T5") as error:
    create(tmp_path)
  assert "\n" not in str(error.value)
