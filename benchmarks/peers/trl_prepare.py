"""TRL's preparation of a JSON-lines file of texts, as its `KTOTrainer` begins with it.

python trl_prepare.py DATA MODEL CACHE
"""

import json
import sys
from types import SimpleNamespace


def main() -> None:
    data, model, cache = sys.argv[1:]
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import KTOConfig, KTOTrainer

    with open(data) as lines:
        rows = [json.loads(line) for line in lines]
    columns = [{"prompt": r["messages"][:-1], "completion": r["messages"][-1:], "label": r["label"]} for r in rows]
    tokenizer = AutoTokenizer.from_pretrained(model)
    # All that the step asks of a trainer: none is made, since it would need a model.
    trainer = SimpleNamespace(calculate_KL=True, _tokenizer=tokenizer, desirable_weight=1.0, undesirable_weight=1.0)
    args = KTOConfig(cache + "-run", max_length=None, use_cpu=True, bf16=False, report_to="none")
    KTOTrainer._prepare_dataset(trainer, Dataset.from_list(columns), tokenizer, args, "train").save_to_disk(cache)


if __name__ == "__main__":
    main()
