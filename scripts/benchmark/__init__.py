"""The benchmark behind `scripts/bench`: our training and that of other tools, on the same conversations.

options.py   what is asked for            corpus.py    conversations, where no data is given
shapes.py    the models' shapes           model.py     random weights and a random adapter, on disk
work.py      one folder with all that the tools read: model, adapter, rows, our YAML
recorder.py  what a peer's Trainer did: one counter for all
plain.py trl_sft.py llamafactory.py swift.py   a peer each, in a process (and a venv) of its own
tools.py     how each tool is started     harness.py   processes, watched from outside, in turns
equality.py  do all compute the same?     limit.py     the machine's limit
ladder.py    our features, one by one     generation.py   answers a second
smollm2.py   the same on a real model in bfloat16, on a CPU: at defaults, in float32, and answers
table.py     what is printed
"""
