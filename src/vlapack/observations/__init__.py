"""Observations to calibrate on and to compare policies with: recorded folders, LeRobot data sets, and the recorder."""
