int placeholder_sweep;
