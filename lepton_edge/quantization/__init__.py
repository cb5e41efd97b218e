"""Eight bits, as far as backends share it: NNCF, and which roundings to do without."""
