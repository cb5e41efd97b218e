"""Token vectors with transformers' pipeline."""

import sys

from transformers import pipeline

model_folder, text = sys.argv[1:]
extract = pipeline("feature-extraction", model=model_folder, device="cpu")
print(extract(text)[0][0][:4])
