"""A text's embedding with transformers, as the model card of all-MiniLM-L6-v2 shows it."""

import sys

import torch
from transformers import AutoModel, AutoTokenizer

model_folder, text = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(model_folder)
model = AutoModel.from_pretrained(model_folder)
inputs = tokenizer([text], padding=True, truncation=True, return_tensors="pt")
with torch.no_grad():
    output = model(**inputs)
mask = inputs["attention_mask"].unsqueeze(-1).float()
pooled = (output.last_hidden_state * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
print(torch.nn.functional.normalize(pooled, p=2, dim=1)[0, :4])
