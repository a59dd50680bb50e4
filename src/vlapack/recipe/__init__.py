"""What a pack is made of: recipes, presets, and the way from a command line or variables to one."""
