"""SASRec of the peer RecBole on its MovieLens-100k, run by its own interpreter: ``python recbole_sasrec.py WHAT OUT COUNT``.

It imports nothing of ours. All is RecBole's default: the model, the training, the data order and the sequential evaluation,
in which each user's last item is for testing and the one before it for validation, ranked among all items, seen ones too.
``speed`` times COUNT batches of RecBole as it is. ``quality`` trains for at most COUNT epochs, ended by RecBole's own rule:
ten epochs without a better validation MRR@10. To end sooner it leaves out what RecBole computes and never reads, the last
layer's output before the last place, and compiles the rest; the scores are checked to be RecBole's own.
"""

import itertools
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

# The interpreter puts this folder first, whose modules are ours.
sys.path.pop(0)

STOP = 10


def main(what: str, target: str, count: str) -> None:
    """Write what was found as JSON, and beside it the best model's checkpoint and the names of its items."""
    trainer, dataset, (train, valid, test) = prepare(Path(target).parent)
    found: dict[str, Any] = {
        "samples": len(train._dataset),
        "settings": trainer.config.final_config_dict,
        "seconds": [],
    }
    if what == "speed":
        trainer._train_epoch(itertools.islice(train, 2), 0)
        started = time.process_time()
        trainer._train_epoch(itertools.islice(train, int(count)), 0)
        seconds = time.process_time() - started
        batch = train.batch_size
        Path(target).write_text(json.dumps(found | {"samples_per_second": int(count) * batch / seconds}, default=str))
        return
    names = dataset.field2id_token[dataset.iid_field]
    Path(target).with_name("items.txt").write_text("\n".join(names[1:]) + "\n")
    shorten(trainer.model, next(iter(valid))[0])
    best = -math.inf
    for epoch in range(1, int(count) + 1):
        started = time.process_time()
        trainer._train_epoch(train, epoch)
        found["seconds"].append(time.process_time() - started)
        rank = ranks(trainer.model, valid)
        score = sum(1 / place for place in rank if place <= 10) / len(rank)
        found["epochs"] = epoch
        if score > best:
            best = score
            found |= {"best_epoch": epoch, "valid_rank": rank, "test_rank": ranks(trainer.model, test)}
            trainer._save_checkpoint(epoch, verbose=False, saved_model_file=str(Path(target).with_suffix(".pth")))
        Path(target).write_text(json.dumps(found, default=str))
        print(f"epoch {epoch}: {found['seconds'][-1]:.1f} s, valid MRR@10 {score:.4f}", flush=True)
        if epoch - found["best_epoch"] >= STOP:
            break


def prepare(folder: Path) -> tuple[Any, Any, Any]:
    """RecBole's trainer with a fresh model, its data set, and the parts of it."""
    import numpy as np
    import recbole

    # RecBole 1.2.1 was written for numpy 1 and reads names that numpy 2 has dropped.
    vars(np).update(float_=np.float64, complex_=np.complex128, unicode_=np.str_)
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.model.sequential_recommender import SASRec
    from recbole.trainer import Trainer
    from recbole.utils import init_seed

    settings = {
        "data_path": str(Path(recbole.__file__).parent / "dataset_example"),
        "checkpoint_dir": str(folder),
        "train_neg_sample_args": None,
        "use_gpu": False,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    }
    sys.argv = sys.argv[:1]
    config = Config(model="SASRec", dataset="ml-100k", config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    parts = data_preparation(config, dataset)
    init_seed(config["seed"], config["reproducibility"])
    return Trainer(config, SASRec(config, parts[0]._dataset)), dataset, parts


def shorten(model: Any, batch: Any) -> None:
    """Compute the last layer at the last place only, for RecBole reads no other.

    Raises:
        ValueError: the scores of ``batch`` are not what they were.
    """
    import torch

    def forward(items: Any, lengths: Any) -> Any:
        states = model.item_embedding(items) + model.position_embedding.weight[: items.shape[1]]
        states = model.dropout(model.LayerNorm(states))
        *below, layer = model.trm_encoder.layer
        for block in below:
            states = block(states, model.get_attention_mask(items))
        attention = layer.multi_head_attention
        last = states[torch.arange(len(items)), lengths - 1][:, None]
        query, key, value = (
            attention.transpose_for_scores(part).transpose(1, 2)
            for part in (attention.query(last), attention.key(states), attention.value(states))
        )
        logits = query @ key.transpose(2, 3) / attention.sqrt_attention_head_size
        logits = logits + torch.where(items != 0, 0.0, -10000.0)[:, None, None]
        found = attention.attn_dropout(attention.softmax(logits)) @ value
        merged = attention.out_dropout(attention.dense(found.transpose(1, 2).flatten(2)))
        return layer.feed_forward(attention.LayerNorm(merged + last))[:, 0]

    model.eval()
    with torch.no_grad():
        before = model.full_sort_predict(batch)
        model.forward = forward
        if not torch.allclose(before, model.full_sort_predict(batch), atol=1e-5):
            raise ValueError("the shortened model does not give RecBole's scores")
    model.calculate_loss = torch.compile(model.calculate_loss, dynamic=False)


def ranks(model: Any, data: Any) -> list[int]:
    """Of each user's held-out item among all items, 1 the best."""
    import torch

    model.eval()
    found: list[int] = []
    for interaction, seen, _, held_out in data:
        if seen is not None:
            raise ValueError("RecBole masks seen items here; its sequential evaluation does not")
        with torch.no_grad():
            scores = model.full_sort_predict(interaction)
        scores[:, 0] = -torch.inf
        found += (1 + (scores > scores.gather(1, held_out[:, None])).sum(1)).tolist()
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
