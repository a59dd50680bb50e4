"""Which layers a recipe quantizes, what folds where, and how many bytes that makes: from names and shapes alone."""
