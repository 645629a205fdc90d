"""What breaks training, done to it for real: kills, torn saves, flipped bits, full disks, signals, hangs, poison.

``make faults`` runs every trial (python -m faults, an hour or so on two cores, resumable); ``make test`` a few of each.
Every experiment has a control, the same trials with the protection taken away, which must come to harm: without one, a
figure of 50 out of 50 may only say that nothing was tested.
"""
