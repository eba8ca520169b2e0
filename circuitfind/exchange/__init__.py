"""Other tools' files, in and out: a module a format, whose ``read_*`` and ``write_*`` are inverses.

edges.py         what all formats of circuits have in common: every edge, whether it is kept, and
its score content.py       a file's content, read safely: JSON, text, or a PyTorch file without a
pickle eapig.py         EAP-IG and MIB: json and pt acdc.py          ACDC: edge lists as text and
JSON, subgraphs as pth autocircuit.py   AutoCircuit: prune scores edgepruning.py   Edge-Pruning:
edges.json readers.py       every format that is read, and which of them a file is in writers.py
every format that is written, and what it can't hold importing.py     what was read -> a circuit,
and a folder like a run's prompts.py       EAP-IG's and MIB's CSV, Edge-Pruning's JSONL -> prompts
mib.py           the names, shapes and budgets of MIB's circuit track submission.py    a submission
to it, packed and checked
"""
