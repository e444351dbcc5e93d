"""A base and its adapter become the files that nodes load, and are proven to say the same.

weights.py        the base's tensors, some rows at a time
lora.py           the adapter: which layers, which factors, which scale
merge.py          rows of the base with the adapter added in
architecture.py   which tensor goes where in a GGUF file, and the numbers that describe the model
tokenizer.py      vocabulary, merges and chat template
encodings.py      rows as f32, f16, bf16 or q8_0
gguf_file.py      a file that is written row by row, and is there whole or not at all
model.py          the merged model, in several encodings at once
adapter.py        the adapter alone
probes.py         what both sides are asked
equality.py       llama.cpp beside transformers
steps.py          the two steps of a job: export, then check
"""
