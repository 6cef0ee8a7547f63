"""Will this flight leave late? The flights of New York in 2013, from raw CSV to a served prediction."""
