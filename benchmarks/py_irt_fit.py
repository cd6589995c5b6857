"""One fit by the peer ``py-irt``, run by its own interpreter: ``python py_irt_fit.py SCORES.json RESULT.json PRIORS``.

It imports nothing of ours, for it runs in an environment of its own (``pandas<3``, ``typer<.15``). CPU seconds of training
alone; the imports and the reading are not counted.
"""

import json
import sys
import time
from pathlib import Path


def main(source: str, target: str, priors: str) -> None:
    """Fit the 2PL with its defaults: 2,000 epochs, Adam .1."""
    import torch
    from py_irt.config import IrtConfig
    from py_irt.training import IrtModelTrainer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = IrtConfig(model_type="2pl", priors=priors)
    trainer = IrtModelTrainer(data_path=Path(source), config=config, verbose=False)
    started = time.process_time()
    trainer.train()
    seconds = time.process_time() - started
    found = trainer.best_params
    order = [int(name[1:]) for name in found["item_ids"].values()]
    Path(target).write_text(
        json.dumps(
            {
                "seconds": seconds,
                "order": order,
                "difficulty": [float(value) for value in found["diff"]],
                "discrimination": [float(value) for value in found["disc"]],
                "ability": [float(value) for value in found["ability"]],
                "torch": torch.__version__,
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
