"""Measuring how fast a user's own file is read on the user's own machine, beside peers and the machine's limits.

`run` asks, `worker` answers in a process of its own, `readers` knows the peers, `limits` what the machine can do at
best, `kernel` what the system counts, `report` what is made of it all, `chart` draws it.
"""
