"""What tests of micro-batches share: three columns of texts of very different lengths."""

COLUMNS = [
    ["a", "two words", "now three words", "x " * 50],
    ["b " * n for n in (90, 1, 7, 30)],
    ["c " * n for n in (2, 60, 5, 4)],
]


def features_of(model, prompt: str = "") -> list[dict]:
    return [model.preprocess(texts, prompt=prompt if n == 0 else None) for n, texts in enumerate(COLUMNS)]
