"""How any law is fitted: objective, solver, error bars, identifiability, backtests."""
