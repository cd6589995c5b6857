"""A tokenizer over single characters, for policies that calculate."""

from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

from rayworks.core.errors import DataError

CHARACTERS = "0123456789+-=\n#?"
END, PADDING = "$", "_"


def character_tokenizer(longest: int) -> PreTrainedTokenizerFast:
    """One id for each of ``CHARACTERS``, one for the end, one to pad; it adds nothing to a prompt.

    Args:
        longest: most tokens that the model reads.
    """
    vocabulary = {character: at for at, character in enumerate([*CHARACTERS, END, PADDING])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=PADDING))
    tokenizer.pre_tokenizer = Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PADDING,
        model_max_length=longest,
        clean_up_tokenization_spaces=False,
    )


def require_known(text: str) -> None:
    """Raise a :class:`DataError` for a text with a character that has no id."""
    unknown = sorted(set(text) - set(CHARACTERS))
    if unknown:
        raise DataError(
            f"recipe: its policy reads {CHARACTERS!r} alone, not {''.join(unknown[:10])!r}; set task.name to chain-sum, or "
            "name a policy of your own"
        )
