"""A model that is no folder: whether the hub has it is asked once. The home of huggingface_hub.

transformers asks for each file of a model by itself, and again and again where nobody answers: a mistyped folder took
minutes on a machine without a network.
"""

from __future__ import annotations

from kto_data.errors import ModelError, first_line

_SOME_FILES = ("config.json", "tokenizer_config.json", "tokenizer.json", "preprocessor_config.json")
_SECONDS = 10.0  # to wait for an answer


def look_for(model: str) -> None:
    """Raises `ModelError` where `model`, which is no folder, is not a model of the hub either, or the hub cannot be
    asked. One of which there are files in the hub's cache on this machine is not asked for."""
    from huggingface_hub import HfApi, is_offline_mode, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        is_known = any(isinstance(try_to_load_from_cache(model, name), str) for name in _SOME_FILES)
        if not is_known and not is_offline_mode():
            HfApi().model_info(model, timeout=_SECONDS)
    except HFValidationError:
        raise ModelError(
            f"{model!r} is not a folder, nor can it be the id of a model",
            hint="--model takes a model folder or a hub id",
        ) from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"{model} is not a folder, and the hub has no such model for you",
            hint="check the path; a private model needs a login: hf auth login",
        ) from None
    except Exception as error:  # whatever the hub's client makes of a network that fails
        raise ModelError(
            f"{model} is not a folder, and the hub cannot be asked: {first_line(error)}",
            hint="check the path, or the network",
        ) from None
