"""Why a pack does not act like its parent, and what helps at the least cost."""
