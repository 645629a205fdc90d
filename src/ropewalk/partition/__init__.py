"""How one packed row is cut over context ranks: plain data, computed ahead on the CPU. Needs no torch."""
