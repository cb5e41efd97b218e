"""Measuring a bundle on this machine: latency, throughput, start, memory, beside the original.

`bench.bench` measures a bundle and gives a `report.Report`. `contest.measure_in_turn` is the part
of it that measures several ways to answer in turn, under one objective. Only `timing` reads the
clock in this process; `startup` has fresh processes read theirs. `wording` and `page` say what was
found, in a terminal and as an HTML page.

Nothing is imported here: `scripts/start.py`, whose memory is measured, loads a part of it.
"""
