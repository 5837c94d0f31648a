"""LLaMA-Factory's preprocessing of a JSON-lines file, as its KTO training begins with it. Run by its own interpreter.

python llama_factory.py DATA MODEL TEMPLATE CACHE
"""

import json
import sys
import tempfile
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType


def main() -> None:
    data, model, template, cache = sys.argv[1:]
    do_without_sound()
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    with tempfile.TemporaryDirectory() as scratch:
        columns = {"messages": "messages", "kto_tag": "label"}
        with open(data) as lines:
            if "images" in json.loads(next(lines)):
                columns["images"] = "images"
        tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
        entry = {"file_name": str(Path(data).resolve()), "formatting": "sharegpt", "columns": columns, "tags": tags}
        Path(scratch, "dataset_info.json").write_text(json.dumps({"rows": entry}))
        model_args, data_args, training_args, *_ = get_train_args(
            {
                "stage": "kto",
                "do_train": True,
                "model_name_or_path": model,
                "dataset": "rows",
                "dataset_dir": scratch,
                "media_dir": str(Path(data).resolve().parent),
                "template": template,
                "cutoff_len": 16384,
                # No budget but the processor's, as ktodata is run: by its own of 768*768 it would write fewer ids.
                "image_max_pixels": 1 << 31,
                "preprocessing_num_workers": 1,
                "overwrite_cache": True,
                "tokenized_path": cache,
                "output_dir": str(Path(scratch, "run")),
                "report_to": "none",
                "use_cpu": True,
            }
        )
        loaded = load_tokenizer(model_args)
        used = get_template_and_fix_tokenizer(loaded["tokenizer"], data_args)
        get_dataset(used, model_args, data_args, training_args, stage="kto", **loaded)


def do_without_sound() -> None:
    """Let LLaMA-Factory, which imports torchaudio whether rows have sounds or not, run beside a CPU torch, where it
    cannot be loaded."""
    try:
        import torchaudio
    except OSError:
        torchaudio = ModuleType("torchaudio")
        torchaudio.__spec__ = ModuleSpec("torchaudio", None)
        sys.modules["torchaudio"] = torchaudio


if __name__ == "__main__":
    main()
