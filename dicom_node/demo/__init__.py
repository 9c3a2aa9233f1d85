"""A study through a real node into a real archive on one machine."""
