"""The README of an exported folder: how it is loaded, and what must be done as the model was measured."""

from __future__ import annotations

from sharpen.evaluation.export.reading import ExportInfo

_SENTENCE_TRANSFORMERS = """
Where optimum is installed beside sentence-transformers (it asks for versions of transformers of its own):

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("this folder", backend="{backend}")
queries = model.encode_query(["how ice flows"], normalize_embeddings=True)
documents = model.encode_document(["Ice flows downhill."], normalize_embeddings=True)
```
"""
_ONNX = """With ONNX Runtime; the graph has the pooling in it:

```python
import numpy as np, onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("tokenizer.json")
tokenizer.enable_truncation({length})
tokenizer.enable_padding()
session = onnxruntime.InferenceSession("onnx/model.onnx")
encoded = tokenizer.encode_batch([{document_prompt!r} + text for text in texts])
features = {{
    "input_ids": np.array([e.ids for e in encoded]),
    "attention_mask": np.array([e.attention_mask for e in encoded]),
    "token_type_ids": np.array([e.type_ids for e in encoded]),
}}
features = {{i.name: features[i.name] for i in session.get_inputs()}}
vectors = session.run(["sentence_embedding"], features)[0]
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
```

text-embeddings-inference takes the folder, too: `text-embeddings-router --model-id "this folder"`.
"""
_OPENVINO = """With OpenVINO; the graph has the pooling in it:

```python
import numpy as np, openvino
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("tokenizer.json")
tokenizer.enable_truncation({length})
tokenizer.enable_padding()
model = openvino.Core().compile_model("openvino/openvino_model.xml", "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
encoded = tokenizer.encode_batch([{document_prompt!r} + text for text in texts])
features = {{
    "input_ids": np.array([e.ids for e in encoded]),
    "attention_mask": np.array([e.attention_mask for e in encoded]),
    "token_type_ids": np.array([e.type_ids for e in encoded]),
}}
features = {{i.any_name: features[i.any_name] for i in model.inputs}}
vectors = model(features)["sentence_embedding"]
vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
```
"""
_GGUF = """With llama.cpp:

```sh
llama-server --model model.gguf --embedding --ctx-size {length} --batch-size {length} --ubatch-size {length}
curl http://localhost:8080/v1/embeddings -H "Content-Type: application/json" \\
    -d '{{"model": "model", "input": ["{document_prompt}Ice flows downhill."]}}'
```

With Ollama: `FROM ./model.gguf` in a Modelfile, and `ollama create`. The pooling is in the file; give no `--pooling`.
The file has positions for {length} tokens, and llama-server refuses longer texts: cut them before. It puts no prompt
before a text.
"""


def readme(info: ExportInfo) -> str:
    """The page, in Markdown."""
    check = info.check
    values = {"length": info.max_seq_length, "document_prompt": info.document_prompt}
    how = {
        "onnx": _ONNX.format(**values) + _SENTENCE_TRANSFORMERS.format(backend="onnx"),
        "int8": _ONNX.format(**values) + _SENTENCE_TRANSFORMERS.format(backend="onnx"),
        "openvino": _OPENVINO.format(**values) + _SENTENCE_TRANSFORMERS.format(backend="openvino"),
        "gguf": _GGUF.format(**values),
    }[info.format]
    prompts = (
        f"Put {info.query_prompt!r} before each query and {info.document_prompt!r} before each document"
        if info.query_prompt or info.document_prompt
        else "Put nothing before queries and documents"
    )
    return f"""# {_TITLES[info.format]}

Checked when it was written: over {check.texts} texts, its vectors have a cosine of {check.mean_cosine:.5f} in the mean,
and {check.least_cosine:.5f} at the least, to those of the model in float32 (`export.json`).

{how}
To get the vectors that were measured:

- {prompts}. sentence-transformers does so by `encode_query` and `encode_document`, servers do not.
- Cut texts at {info.max_seq_length} tokens, prompt and special ones among them.
- Pooling: {info.pooling}. Compare by cosine, or bring vectors to length 1.

`sharpen verify` asks a running server for vectors and says whether they are these.
"""


_TITLES = {
    "onnx": "An encoder of texts in ONNX, float32",
    "int8": "An encoder of texts in ONNX, weights in 8 bits",
    "openvino": "An encoder of texts in OpenVINO, float32",
    "gguf": "An encoder of texts in GGUF, float16",
}
