import dataclasses

import pytest

from rayworks.core.errors import ConfigError
from rayworks.systems.alignment.vocabulary import Vocabulary, common_id_range, describe
from tests.tiny_models import make_tokenizer

BASE = Vocabulary("base", "hash", 32000, (), "</s>", 32000)


def test_one_added_padding_token_is_sliced_away() -> None:
    guide = dataclasses.replace(BASE, name="guide", added=("[PAD]",), logits_size=32001)
    assert common_id_range(BASE, guide) == 32000
    assert common_id_range(guide, BASE) == 32000


def test_tokens_that_both_added_are_kept() -> None:
    base = dataclasses.replace(BASE, added=("<a>", "<b>"), logits_size=32064)
    guide = dataclasses.replace(BASE, name="guide", added=("<a>", "<c>"), logits_size=32064)
    assert common_id_range(base, guide) == 32001


@pytest.mark.parametrize(
    ("change", "words"),
    [({"merges_hash": "other"}, "same family"), ({"end_token": "<eos>"}, "eos_token")],
)
def test_other_tokenizers_are_refused(change: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        common_id_range(BASE, dataclasses.replace(BASE, name="guide", **change))


def test_end_token_beyond_the_common_range_is_refused() -> None:
    base = dataclasses.replace(BASE, added=("<x>", "</s>"), logits_size=32002)
    guide = dataclasses.replace(BASE, name="guide", added=("<y>", "</s>"), logits_size=32002)
    with pytest.raises(ConfigError, match="end token"):
        common_id_range(base, guide)


def test_described_from_real_tokenizers() -> None:
    first, again = make_tokenizer(), make_tokenizer()
    other = make_tokenizer(["quite another corpus of quite other words"])
    widened = make_tokenizer()
    widened.add_special_tokens({"pad_token": "[PAD]"})
    base = describe("base", first, len(first))
    assert describe("base", again, len(again)) == base
    assert common_id_range(base, describe("wide", widened, len(widened))) == len(first)
    with pytest.raises(ConfigError, match="differs"):
        common_id_range(base, describe("other", other, len(other)))
