"""Models small enough to train in a test, with a real byte-level BPE tokenizer."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

CORPUS = [
    "a dress: good lovely fine warm bad ugly torn cold shirt dress",
    "a shirt: the fit is good, the fabric is fine, the colour is lovely",
    "Title of a customer review of Dresses: Love it! Terrible quality.",
]
END = "<|end|>"
VLLM_HEAD = 32
"""Size of a head that vLLM's attention on a CPU can do."""
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def make_tokenizer(corpus: list[str] | None = None, end: str = END) -> PreTrainedTokenizerFast:
    """A byte-level BPE of about 300 ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[end],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus or CORPUS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end)
    fast.chat_template = TEMPLATE
    return fast


def save_tiny_model(
    folder: Path,
    seed: int,
    tokenizer: PreTrainedTokenizerFast | None = None,
    extra_ids: int = 0,
    positions: int = 256,
    head: int = 12,
) -> str:
    """Save a random two-layer Llama and its tokenizer; ``extra_ids`` widens the logits beyond the tokenizer."""
    tokenizer = tokenizer or make_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + extra_ids,
        hidden_size=4 * head,
        intermediate_size=8 * head,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_adapter(folder: Path, model: PreTrainedModel, seed: int, **options: Any) -> Path:
    """A random adapter, in the way of PEFT."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        **{
            "r": 4,
            "lora_alpha": 12,
            "target_modules": ["q_proj", "v_proj", "down_proj"],
            "task_type": "CAUSAL_LM",
            **options,
        }
    )
    adapted = get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(folder)
    adapted.unload()
    return folder


def save_pairs(path: Path) -> str:
    """Preference pairs that a tiny model can learn: the chosen response names what is good."""
    good, bad = ("good", "lovely", "fine", "warm"), ("bad", "ugly", "torn", "cold")
    rows = [
        {
            "prompt": f"a {thing}:",
            "chosen": f" {good[n % 4]} {thing} {n}",
            "rejected": f" {bad[n // 4 % 4]} {thing} {n}",
        }
        for n in range(64)
        for thing in ("dress", "shirt")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)
