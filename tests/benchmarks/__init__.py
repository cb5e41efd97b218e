"""Speed and size of lepton-edge beside other ways to run the same model.

``python -m tests.benchmarks`` runs them; ``make bench`` does it in the development environment.
Nothing here is a test: a figure depends on the machine and on what else it does.
"""
