"""The model's own processor on every image of a JSON-lines file: what a collator does, row by row.

python processor_rows.py DATA MODEL
"""

import json
import sys
from pathlib import Path


def main() -> None:
    data, model = sys.argv[1:]
    from PIL import Image, ImageOps
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(model)
    with open(data) as lines:
        rows = [json.loads(line) for line in lines]
    for row in rows:
        messages = [
            {"role": m["role"], "content": [{"type": "image"}] * m["content"].count("<image>") + [_text(m["content"])]}
            for m in row["messages"]
        ]
        text = processor.apply_chat_template(messages, tokenize=False)
        images = []
        for path in row["images"]:
            with Image.open(Path(data).parent / path) as image:
                images.append(ImageOps.exif_transpose(image).convert("RGB"))
        processor(images=[images] if images else None, text=[text], add_special_tokens=False)


def _text(content: str) -> dict[str, str]:
    return {"type": "text", "text": content.replace("<image>", "")}


if __name__ == "__main__":
    main()
