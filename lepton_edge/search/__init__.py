"""Searching texts by meaning: an index of embeddings on disk, queried in this process.

An index is a folder. `index` is what users hold; it reads and changes a `store`, which is made of
`segment`s: the vectors and documents of one addition, never changed once written. `exact` and
`graph` are the two ways to find the nearest vectors in them.
"""
