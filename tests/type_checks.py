"""The checker of signatures and shapes under test: beartype, with whole numbers welcome where a float is asked for."""

from beartype import BeartypeConf, beartype

check_types = beartype(conf=BeartypeConf(is_pep484_tower=True))
