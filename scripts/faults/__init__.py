"""Chaos on a stack of one's own: faults by a seed, load that survives them, proof that it did.

kinds         the faults that there are, and what each of them may not overlap with
schedule      which fault happens when: a pure function of the seed
publishing    the publisher process: it can be killed at any moment
publishers    its other end: what it was told is stored, and its next life
flow          whether events flow, and how long they did not
injectors     how each fault is done and healed
subscribers   consumers with their recorders, and subscriptions that come and go
rounds        load and faults for some minutes, then silence and the checker
report        what happened, in Markdown
"""
