"""`encode_batch` of tokenizers over whole conversations, and nothing else: no template, no check, no file written.

python bare_tokenizer.py DATA MODEL
"""

import json
import sys
from pathlib import Path

BATCH = 1000


def main() -> None:
    data, model = sys.argv[1:]
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(model, "tokenizer.json")))
    with open(data) as lines:
        rows = [json.loads(line) for line in lines]
    texts = ["".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in r["messages"]) for r in rows]
    for start in range(0, len(texts), BATCH):
        tokenizer.encode_batch(texts[start : start + BATCH], add_special_tokens=False)


if __name__ == "__main__":
    main()
